"""The only module that touches torch.distributed.

W is the number of processes, B the rows of one process. Every function also works in a single process without a group.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cclm.launch_contract import COLLECTIVE_TIMEOUT


def initialize() -> torch.device:
    """Join the process group that torchrun announced in the environment and return this process's device.

    Waiting for another process ends with an error after CCLM_COLLECTIVE_TIMEOUT seconds (600; `cclm launch` sets it).
    nccl on GPUs, gloo on CPUs. Without torchrun's variables nothing is joined: one process.
    """
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo", timeout=_timeout(), device_id=device if cuda else None)
    return device


def _timeout() -> timedelta:
    return timedelta(seconds=int(os.environ.get(COLLECTIVE_TIMEOUT, 600)))


_waits = itertools.count()
"""Numbers what `others_wait` for: every process enters it equally often."""

_BEATS, _BEAT = "cclm/beats", 1.0  # seconds between signs of life


@contextmanager
def others_wait() -> Iterator[None]:
    """What the first process does in here may take longer than a collective may: an upload. Others wait for its end.

    They hear from it by the store that the group met in. Raises DistStoreError, as a collective would, when it gives no
    sign of life for CCLM_COLLECTIVE_TIMEOUT; fails, too, if the store goes away.
    """
    if not dist.is_initialized():
        yield
        return
    store, key = dist.distributed_c10d._get_default_store(), f"cclm/first/{next(_waits)}"  # not public
    if dist.get_rank() != 0:
        yield
        _await(store, key)
        return
    left = threading.Event()
    heart = threading.Thread(target=_beat, args=(store, left), daemon=True)
    heart.start()
    try:
        yield
    finally:
        left.set()
        heart.join()
    store.set(key, "1")


def _beat(store: dist.Store, left: threading.Event) -> None:
    while not left.wait(_BEAT):
        store.add(_BEATS, 1)


def _await(store: dist.Store, key: str) -> None:
    """Until the first process sets `key`, as long as it lives."""
    beats, heard = 0, time.monotonic()
    while not store.check([key]):
        if (now := store.add(_BEATS, 0)) != beats:
            beats, heard = now, time.monotonic()
        elif time.monotonic() - heard > _timeout().total_seconds():
            raise dist.DistStoreError("timed out waiting for the first process, which gives no sign of life")
        time.sleep(0.05)


def shutdown() -> None:
    """Leave the process group, all processes together."""
    global _control_group
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        _control_group = None


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def wrap(task: nn.Module, device: torch.device) -> nn.Module:
    """`task` under DistributedDataParallel, or as it is in a single process.

    Steps of different kinds use different parameters (parallel text does not touch the vision encoder), hence
    `find_unused_parameters`. Buffers are constants of the architecture: sending them with every step would be waste.
    """
    if world_size() == 1:
        return task
    device_ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(
        task,
        device_ids=device_ids,
        find_unused_parameters=True,
        gradient_as_bucket_view=True,
        broadcast_buffers=False,
    )


def unwrap(task: nn.Module) -> nn.Module:
    return task.module if isinstance(task, nn.parallel.DistributedDataParallel) else task


class _GatherLocalGradient(torch.autograd.Function):
    """Rows of all processes; backward keeps this process's rows of this process's gradient (as published)."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:  # (B, ...) -> (W * B, ...)
        ctx.batch = rows.shape[0]
        return gather_rows(rows)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        start = rank() * ctx.batch
        return gradient[start : start + ctx.batch]


class _GatherGlobalGradient(torch.autograd.Function):
    """Rows of all processes; backward sums what every process's loss says about this process's rows."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:  # (B, ...) -> (W * B, ...)
        ctx.batch = rows.shape[0]
        return gather_rows(rows)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        start = rank() * ctx.batch
        return gradient[start : start + ctx.batch]


def gather_rows(rows: Tensor) -> Tensor:
    """(B, ...) of each process -> (W * B, ...) in order of rank, no gradient. B must be equal on all processes."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def gather_with_gradient(rows: Tensor, *, global_gradient: bool) -> Tensor:
    """(B, H) of each process -> (W * B, H), differentiable.

    Every process computes the whole loss, and DistributedDataParallel averages over processes. With the local gradient
    (as published) the encoders so receive 1/W of the gradient of the global batch; with `global_gradient` all of it.
    Parameters used after gathering (the temperature) receive all of it either way.
    """
    if world_size() == 1:
        return rows
    return (_GatherGlobalGradient if global_gradient else _GatherLocalGradient).apply(rows)


def gather_ragged(rows: Tensor | None) -> list[Tensor]:
    """(B, ...) of each process -> the rows of each, in order of rank, on every process; B may differ, no gradient.

    None stands for no rows, where their shape is not known.
    """
    shapes = gather_objects(None if rows is None else (tuple(rows.shape), rows.dtype))
    if world_size() == 1:
        return [] if rows is None else [rows]
    known = [shape for shape in shapes if shape is not None]
    if not known:
        return []
    longest = max(shape[0] for shape, _ in known)
    (_, *trailing), dtype = known[0]
    padded = torch.zeros((longest, *trailing), dtype=dtype, device=_device() if rows is None else rows.device)
    if rows is not None:
        padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in shapes]
    dist.all_gather(parts, padded)
    return [part[: 0 if shape is None else shape[0][0]] for part, shape in zip(parts, shapes, strict=True)]


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


_control_group: dist.ProcessGroup | None = None
"""A gloo group beside nccl: agreeing on the CPU's state must not make it wait for the GPU."""


def any_process(*conditions: bool) -> list[bool]:
    """Whether each of `conditions` holds on any process; the same answers on all of them, at every call."""
    global _control_group
    if world_size() == 1:
        return list(conditions)
    if _control_group is None:
        backend = dist.get_backend()
        _control_group = dist.group.WORLD if backend == "gloo" else dist.new_group(backend="gloo", timeout=_timeout())
    flags = torch.tensor([int(condition) for condition in conditions])
    dist.all_reduce(flags, dist.ReduceOp.MAX, group=_control_group)
    return [bool(flag) for flag in flags.tolist()]


def broadcast(tensor: Tensor) -> None:
    """Overwrite `tensor`, of equal shape and dtype on all processes, with that of the first one."""
    if world_size() > 1:
        dist.broadcast(tensor, src=0)


def gather_objects(value: object) -> list:
    """Picklable `value` of each process, in order of rank, on every process."""
    if world_size() == 1:
        return [value]
    values: list = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def sum_over_processes(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Each named number summed over processes; all must hold the same names."""
    if world_size() == 1:
        return dict(values)
    names = sorted(values)
    total = torch.tensor([values[name] for name in names], dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return dict(zip(names, total.tolist(), strict=True))
