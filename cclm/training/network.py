"""The network between the machines of a run, measured before training, through the group that training uses.

A slow network shows nowhere else: training is just slow. The launcher asks for the measurement (`MEASURES_NETWORK`).
"""

from __future__ import annotations

import os

import torch

from cclm import distributed
from cclm.errors import UserError
from cclm.events import Journal, NetworkMeasured
from cclm.launch_contract import MEASURES_NETWORK
from cclm.preflight.efa import is_efa_wanted

_SLOW = {"gloo": 10e6, "nccl": 1e9}
"""Bytes a second below which a network is called slow. 1 GB/s is a quarter of what GPU machines have by TCP alone."""


def check_network(journal: Journal) -> None:
    """Measure the network of a run on several machines, once. All processes must call it.

    Args:
        journal: gets a `NetworkMeasured`, with a warning if the network is slow. Training goes on all the same.

    Raises:
        UserError: the machines have different versions of PyTorch or NCCL.
        NodeError: an all-reduce gives a wrong sum.
    """
    nodes = distributed.node_count()
    if nodes < 2 or MEASURES_NETWORK not in os.environ:
        return
    _refuse_other_versions()
    speed, backend, network = distributed.measure_bandwidth(), distributed.backend(), distributed.network()
    assert backend is not None, "several machines form a group"
    journal.emit(
        NetworkMeasured(
            nodes, distributed.world_size(), backend, network, speed, warning_about(backend, network, speed)
        )
    )


def warning_about(backend: str, network: str, bytes_per_second: float) -> str:
    """What is wrong with a network; empty if nothing is.

    Args:
        backend: `nccl` or `gloo`.
        network: as NCCL calls it; empty if it is not known.
    """
    if backend == "nccl" and network == "Socket" and is_efa_wanted():
        return "FI_PROVIDER asks for EFA, but NCCL goes over TCP: the image lacks aws-ofi-nccl, or it was not found"
    if bytes_per_second < _SLOW[backend]:
        return "this is slow, and training will be, too; look at the network cards and where the machines stand"
    return ""


def _refuse_other_versions() -> None:
    """Raise UserError unless all processes have the same PyTorch and NCCL."""
    own = f"PyTorch {torch.__version__}"
    if distributed.backend() == "nccl":
        nccl = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]  # torch's has no types
        own += f", NCCL {'.'.join(map(str, nccl))}"
    versions = distributed.gather_objects(own)
    for rank, version in enumerate(versions):
        if version != versions[0]:
            raise UserError(
                f"the machines run different versions: {versions[0]} on rank 0, {version} on rank {rank}; give all of "
                "them the same image"
            )
