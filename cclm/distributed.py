"""How training processes work together.

Besides this module, only the launcher and `cclm.gradient_compression` touch torch.distributed. W is the number of
processes, B the number of rows of one process. Every function also works in a single process that has joined no group.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from cclm import collective_time
from cclm.errors import NodeError
from cclm.launch_contract import COLLECTIVE_TIMEOUT

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

_T = TypeVar("_T")


def initialize() -> torch.device:
    """Join the process group that torchrun announced in the environment, and return this process's device.

    The backend is nccl on GPUs and gloo on CPUs. A collective that waits for another process fails after
    CCLM_COLLECTIVE_TIMEOUT seconds (default 600; `cclm launch` sets it). A process that is alone joins no group.
    """
    cuda = torch.cuda.is_available()
    # A scheduler may show each process its own GPU alone, which is then number 0.
    number = int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count() if cuda else 0
    device = torch.device("cuda", number) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo", timeout=_timeout(), device_id=device if cuda else None)
    return device


def _timeout() -> timedelta:
    return timedelta(seconds=int(os.environ.get(COLLECTIVE_TIMEOUT, 600)))


_wait_numbers = itertools.count()
"""Tells the uses of `others_wait` apart. Every process enters it equally often, so all come to the same number."""

_HEARTBEATS_KEY = "cclm/beats"
_HEARTBEAT_SECONDS = 1.0


@contextmanager
def others_wait() -> Iterator[None]:
    """A block in which only the first process works while the others wait for its end.

    It is for work that may take longer than a collective may wait, such as an upload. The first process gives signs of
    life through the store in which the group met.

    Raises:
        DistStoreError: as a collective would, when the first process gives no sign of life for
            CCLM_COLLECTIVE_TIMEOUT, or when the store goes away.
    """
    if not dist.is_initialized():
        yield
        return
    store, done_key = dist.distributed_c10d._get_default_store(), f"cclm/first/{next(_wait_numbers)}"
    if dist.get_rank() != 0:
        yield
        _wait_for(store, done_key)
        return
    is_done = threading.Event()
    heart = threading.Thread(target=_give_signs_of_life, args=(store, is_done), daemon=True)
    heart.start()
    try:
        yield
    finally:
        is_done.set()
        heart.join()
    store.set(done_key, "1")


def _give_signs_of_life(store: Store, is_done: threading.Event) -> None:
    while not is_done.wait(_HEARTBEAT_SECONDS):
        store.add(_HEARTBEATS_KEY, 1)


def _wait_for(store: Store, done_key: str) -> None:
    """Wait until the first process sets `done_key`, as long as it gives signs of life. Raises DistStoreError."""
    count, last_sign = 0, time.monotonic()
    while not store.check([done_key]):
        if (new_count := store.add(_HEARTBEATS_KEY, 0)) != count:
            count, last_sign = new_count, time.monotonic()
        elif time.monotonic() - last_sign > _timeout().total_seconds():
            raise dist.DistStoreError("timed out waiting for the first process, which gives no sign of life")
        time.sleep(0.05)


def shutdown() -> None:
    """Leave the process group. All processes must call it, and leave together."""
    global _control_group
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        _control_group = None


def rank() -> int:
    """Number of this process, from 0; 0 without a group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes W; 1 without a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def backend() -> str | None:
    """What collectives go through, `nccl` or `gloo`; None in a single process."""
    return dist.get_backend() if dist.is_initialized() else None


def network() -> str:
    """The network that NCCL has chosen, in its own words: `Socket` (TCP), `IB`, `AWS Libfabric`.

    NCCL says it in its log alone, which `cclm launch` sends to a file. Empty for gloo, and where there is no such file.
    """
    log = os.environ.get("NCCL_DEBUG_FILE", "")
    if backend() != "nccl" or not log:
        return ""
    path = Path(log.replace("%h", socket.gethostname()).replace("%p", str(os.getpid())))
    with contextlib.suppress(OSError):
        names = re.findall(r"Using network (.+)", path.read_text(errors="replace"))
        return names[-1].strip() if names else ""
    return ""


def node_count() -> int:
    """Machines of the run, as torchrun counts them; 1 without it."""
    return int(os.environ.get("GROUP_WORLD_SIZE", 1)) if dist.is_initialized() else 1


_MEASURED_SECONDS = 0.25
"""Aim for the time of one measured all-reduce."""
_FIRST_BYTES, _MOST_BYTES = 1 << 20, {"gloo": 16 << 20, "nccl": 256 << 20}


def measure_bandwidth() -> float:
    """Speed of an all-reduce, in bytes a second. All processes must call it.

    It is the bus bandwidth of nccl-tests: what each link carries, however many processes there are. It takes about a
    second on any network: the size of the message follows from the time that a small one takes.

    Raises:
        NodeError: the sum is wrong.
    """
    _time_all_reduce(_FIRST_BYTES)  # opens the connections
    fitting = int(_FIRST_BYTES * _MEASURED_SECONDS / _time_all_reduce(_FIRST_BYTES))
    size = gather_objects(min(max(fitting, _FIRST_BYTES), _MOST_BYTES[dist.get_backend()]))[0]
    seconds = min(_time_all_reduce(size) for _ in range(3))
    return 2 * (world_size() - 1) / world_size() * size / seconds


def _time_all_reduce(size: int) -> float:
    """Seconds that the sum of `size` bytes over all processes takes. Raises NodeError if the sum is wrong."""
    device = _device()
    numbers = torch.full((size // 4,), rank() + 1.0, device=device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    dist.all_reduce(numbers)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    expected = world_size() * (world_size() + 1) / 2
    if not bool((numbers == expected).all()):
        raise NodeError(
            f"rank {rank()} got a wrong sum of numbers over {world_size()} processes; a GPU, its memory or a network "
            "card of one of the machines is broken"
        )
    return seconds


def barrier() -> None:
    """Wait until all processes have come here."""
    if dist.is_initialized():
        with collective_time.collective():
            dist.barrier()


def wrap(task: nn.Module, device: torch.device) -> nn.Module:
    """`task` under DistributedDataParallel; in a single process, `task` as it is.

    Steps of different kinds use different parameters (parallel text does not touch the vision encoder), so
    `find_unused_parameters` is set. Buffers are constants of the architecture, so they are not sent with every step.
    """
    if world_size() == 1:
        return task
    device_ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(
        task,
        device_ids=device_ids,
        find_unused_parameters=True,
        gradient_as_bucket_view=True,
        forward_sync_buffers=False,
    )


def unwrap(task: nn.Module) -> nn.Module:
    """What `wrap` was given."""
    return task.module if isinstance(task, nn.parallel.DistributedDataParallel) else task


class _GatherContext(FunctionCtx):
    """What forward leaves for backward."""

    batch: int
    """Rows of this process."""


class _GatherLocalGradient(torch.autograd.Function):
    """Rows of all processes. Backward keeps this process's rows of this process's gradient, as published."""

    @staticmethod
    def forward(ctx: _GatherContext, rows: Tensor) -> Tensor:  # (B, ...) -> (W * B, ...)
        ctx.batch = rows.shape[0]
        return gather_rows(rows)

    @staticmethod
    def backward(ctx: _GatherContext, gradient: Tensor) -> Tensor:  # (W * B, ...) -> (B, ...)
        start = rank() * ctx.batch
        return gradient[start : start + ctx.batch]


class _GatherGlobalGradient(torch.autograd.Function):
    """Rows of all processes. Backward sums the gradients that all processes have for this process's rows."""

    @staticmethod
    def forward(ctx: _GatherContext, rows: Tensor) -> Tensor:  # (B, ...) -> (W * B, ...)
        ctx.batch = rows.shape[0]
        return gather_rows(rows)

    @staticmethod
    def backward(ctx: _GatherContext, gradient: Tensor) -> Tensor:  # (W * B, ...) -> (B, ...)
        gradient = gradient.contiguous()
        with collective_time.collective():
            dist.all_reduce(gradient)
        start = rank() * ctx.batch
        return gradient[start : start + ctx.batch]


def gather_rows(rows: Tensor) -> Tensor:
    """(B, ...) of each process -> (W * B, ...) in order of rank, without gradient.

    B and dtype must be equal on all processes.
    """
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    with collective_time.collective():
        dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def gather_with_gradient(rows: Tensor, *, global_gradient: bool) -> Tensor:
    """(B, H) of each process -> (W * B, H) in order of rank, differentiable.

    Every process computes the whole loss, and DistributedDataParallel averages over processes. With the local gradient
    (as published) the encoders therefore receive 1/W of the gradient of the global batch; with `global_gradient` they
    receive all of it. Parameters that are used after gathering (the temperature) receive all of it either way.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = (_GatherGlobalGradient if global_gradient else _GatherLocalGradient).apply(rows)
    return gathered


def gather_ragged(rows: Tensor | None) -> list[Tensor]:
    """(B, ...) of each process -> a list of W tensors on every process, in order of rank, without gradient.

    B may differ between processes; the trailing dimensions and the dtype may not. None stands for no rows, where their
    shape is not known. The list is empty if all processes gave None.
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
    with collective_time.collective():
        dist.all_gather(parts, padded)
    return [part[: 0 if shape is None else shape[0][0]] for part, shape in zip(parts, shapes, strict=True)]


def _device() -> torch.device:
    """The device on which the backend expects tensors."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def collective_seconds() -> float | None:
    """Time that this process has spent in collectives, waiting for slower processes included.

    Gradients that are exchanged while others are computed take none. Returns None in a single process, and on nccl: its
    collectives run on the GPU, and to measure them, this process would have to wait for it.
    """
    return collective_time.total() if backend() == "gloo" else None


def backward(loss: Tensor) -> None:
    """`loss.backward()` for a loss () of all processes. Afterwards gradients are those of all processes.

    DistributedDataParallel exchanges gradients while others are computed. When all are computed, it waits for the rest
    of the exchange. That wait counts as a collective.
    """
    if backend() != "gloo" or world_size() == 1:
        torch.autograd.backward(loss)
        return
    computed: list[float] = []

    def note_end(gradient: Tensor) -> None:
        """Callbacks of one backward pass are called in the order in which they were queued, and this is the first."""
        engine = torch.autograd.Variable._execution_engine
        engine.queue_callback(lambda: computed.append(time.perf_counter()))

    with loss.register_hook(note_end):  # type: ignore[no-untyped-call]  # untyped in torch
        torch.autograd.backward(loss)
    collective_time.count_since(computed[0])


_control_group: dist.ProcessGroup | None = None
"""A gloo group for `any_process`. On GPUs it is another one than nccl's, so that the CPU does not wait for the GPU."""


def any_process(*conditions: bool) -> list[bool]:
    """Whether each of `conditions` holds on any process. All processes must call it, and get the same answers."""
    global _control_group
    if world_size() == 1:
        return list(conditions)
    if _control_group is None:
        _control_group = _new_control_group()
    flags = torch.tensor([int(condition) for condition in conditions])
    with collective_time.collective():
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=_control_group)
    return [bool(flag) for flag in flags.tolist()]


def _new_control_group() -> dist.ProcessGroup | None:
    """The group of all processes if that is gloo's, else a new one of gloo's."""
    if dist.get_backend() == "gloo":
        return dist.group.WORLD
    group = dist.new_group(backend="gloo", timeout=_timeout())
    assert not isinstance(group, int), "torch gives a number only to processes outside of the group"
    return group


def broadcast(tensor: Tensor) -> None:
    """Overwrite `tensor` with that of the first process. Shape and dtype must be equal on all processes."""
    if world_size() > 1:
        with collective_time.collective():
            dist.broadcast(tensor, src=0)


def gather_objects(value: _T) -> list[_T]:
    """`value` of each process, in order of rank, on every process. It must be picklable."""
    if world_size() == 1:
        return [value]
    values = [value] * world_size()  # places for those of the others
    with collective_time.collective():
        dist.all_gather_object(values, value)
    return values


def sum_over_processes(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """The sum of each named number over processes, computed in float64. All processes must hold the same names."""
    if world_size() == 1:
        return dict(values)
    names = sorted(values)
    total = torch.tensor([values[name] for name in names], dtype=torch.float64, device=device)
    with collective_time.collective():
        dist.all_reduce(total)
    return dict(zip(names, total.tolist(), strict=True))
