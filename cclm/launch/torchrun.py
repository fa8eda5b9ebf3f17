"""torchrun's options become an agent. Imports torch."""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Callable

import torch
import torch.distributed.elastic.rendezvous.registry as rendezvous
from torch.distributed import run as torch_run
from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.api import RendezvousClosedError, RendezvousError, RendezvousTimeoutError
from torch.distributed.launcher.api import LaunchConfig

from cclm.errors import UserError
from cclm.launch.agent import Agent
from cclm.launch.attempts import Attempts
from cclm.launch.causes import Cause, Failure, classify_exception
from cclm.launch_contract import UNNAMED_JOB

__all__ = ["SignalException", "build_agent", "classify_agent_error", "parse_options", "silence_torch"]


def silence_torch() -> None:
    """Let torch's agent log nothing, as its errors are told in our words; LOGLEVEL=INFO brings them back."""
    if os.environ.get("LOGLEVEL", "").upper() not in ("INFO", "DEBUG"):
        for name in list(logging.root.manager.loggerDict):
            if name.startswith(("torch.distributed.elastic", "torch.distributed.run", "torch.distributed.launcher")):
                logging.getLogger(name).setLevel(logging.CRITICAL)


def parse_options(options: list[str], command: list[str], logs: str) -> tuple[LaunchConfig, list[str]]:
    """torchrun's settings, and the command line of a training process.

    Raises:
        UserError: an option cannot be used.
    """
    try:
        args = torch_run.parse_args([*options, "-m", "cclm", *command])
        if args.nproc_per_node == "gpu" and not torch.cuda.is_available():
            raise UserError("--nproc-per-node gpu: PyTorch finds no GPU on this machine; give a number of processes")
        if not re.fullmatch(r"\d+(:\d+)?", args.nnodes):
            raise UserError(f"--nnodes is {args.nnodes!r}; give a number of machines, or MIN:MAX such as 1:4")
        low, high = torch_run.parse_min_max_nnodes(args.nnodes)
        if args.rdzv_backend == "static" and (args.rdzv_endpoint or low != high):
            args.rdzv_backend = "c10d"  # static knows no address but the master's, and no change of members
        if args.standalone or (high == 1 and not args.rdzv_endpoint and args.master_port is None):
            args.rdzv_backend, args.rdzv_endpoint = "c10d", "localhost:0"
        elif not args.rdzv_endpoint and (args.rdzv_backend != "static" or args.master_port is None):
            raise UserError("several nodes need a place to meet: name the first one, --rdzv-endpoint HOST:PORT")
        if high == 1 and args.rdzv_id == UNNAMED_JOB:
            args.rdzv_id = uuid.uuid4().hex  # no other machine needs to know it
        if args.master_port is None:
            args.master_port = 29500
        if args.log_dir is None:
            args.log_dir = logs
        hosts = os.environ.get("TORCHX_REPLICA_ID", "")
        if args.rdzv_backend == "c10d" and high > 1 and hosts.isdigit() and "is_host" not in args.rdzv_conf:
            # Left alone, torch compares host names, which fails for cut ones and in host networks.
            args.rdzv_conf = ",".join(filter(None, (args.rdzv_conf, f"is_host={hosts == '0'}")))
        config, program, arguments = torch_run.config_from_args(args)
    except (ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"cclm launch: {error}") from None
    return config, [program, *arguments]


def build_agent(
    config: LaunchConfig, command: list[str], attempts: Attempts | None, grace: int, say: Callable[[str], None]
) -> Agent:
    """The agent of this node."""
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = config.signals_to_handle
    parameters = RendezvousParameters(
        backend=config.rdzv_backend, endpoint=config.rdzv_endpoint, run_id=config.run_id, min_nodes=config.min_nodes,
        max_nodes=config.max_nodes, local_addr=config.local_addr, **config.rdzv_configs,
    )  # fmt: skip
    host, port = None, None
    if config.rdzv_backend == "static":
        host, _, port = config.rdzv_endpoint.rpartition(":")
    spec = WorkerSpec(
        role=config.role, local_world_size=config.nproc_per_node, entrypoint=command[0], args=tuple(command[1:]),
        rdzv_handler=rendezvous.get_rendezvous_handler(parameters), max_restarts=config.max_restarts,
        monitor_interval=config.monitor_interval, master_addr=host, master_port=port and int(port),
        local_addr=config.local_addr, event_log_handler=config.event_log_handler, numa_options=config.numa_options,
        duplicate_stdout_filters=config.duplicate_stdout_filters,
        duplicate_stderr_filters=config.duplicate_stderr_filters, virtual_local_rank=config.virtual_local_rank,
    )  # fmt: skip
    return Agent(
        spec, attempts=attempts, grace=grace, say=say,
        may_wait=config.max_restarts > 0 or config.min_nodes < config.max_nodes, logs_specs=config.logs_specs,
        start_method=config.start_method, log_line_prefix_template=config.log_line_prefix_template,
    )  # fmt: skip


def classify_agent_error(error: Exception) -> Failure:
    """What it means that the agent itself, not its processes, failed."""
    if isinstance(error, RendezvousClosedError):
        return Failure(Cause.LOST_PEER, "another node has ended this run")
    if isinstance(error, RendezvousTimeoutError):
        return Failure(Cause.LOST_PEER, "too few nodes came within the join timeout (--rdzv-conf join_timeout=SECONDS)")
    if isinstance(error, RendezvousError):
        first = str(error).splitlines()[0]
        return Failure(Cause.LOST_PEER, f"lost the node that holds the rendezvous ({first})")
    return classify_exception(error)
