"""What surrounds a training process: threads, precision, seeds, and the signal to stop."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import torch

from cclm import storage
from cclm.data.batches.loader import hurry_loader_processes
from cclm.launch_contract import EXIT_INTERRUPTED, EXIT_PEER_STOPPED, EXIT_PREEMPTED

log = logging.getLogger(__name__)

_Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None
"""What `signal.signal` takes and returns."""


def set_threads(device: torch.device) -> int:
    """Share the cores of this machine among its training processes, if they compute on the CPU.

    torchrun sets OMP_NUM_THREADS=1 when it starts more than one process, so that value is replaced then. Any other
    value is the user's and stays.

    Returns:
        The threads that torch uses now.
    """
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    omp_threads = os.environ.get("OMP_NUM_THREADS")
    is_set_by_torchrun = omp_threads == "1" and local_processes > 1
    if device.type == "cpu" and (omp_threads is None or is_set_by_torchrun):
        torch.set_num_threads(max(1, usable_cores() // local_processes))
    return torch.get_num_threads()


def usable_cores() -> int:
    """Cores that this process may use, by its affinity and by the CPU quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))  # "max", no quota, raises ValueError
    return cores


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context of every forward pass: bfloat16 or float32.

    Args:
        precision: as in TrainingConfig.
    """
    enabled = uses_bfloat16(precision, device)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether matrix products are computed in bfloat16; otherwise in float32. `precision` is as in TrainingConfig."""
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")


def warn_of_slow_bfloat16(precision: str, device: torch.device) -> None:
    """Warn where a processor computes bfloat16 without units for it. `precision` is as in TrainingConfig."""
    if device.type == "cpu" and uses_bfloat16(precision, device) and not has_bfloat16_units():
        log.warning(
            "training.precision=bfloat16: this processor has no units for it (avx512_bf16, amx_bf16), so matrix "
            "products take 20 to 30 times as long as in float32"
        )


def has_bfloat16_units(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor can multiply matrices in bfloat16; True where that cannot be seen."""
    with contextlib.suppress(OSError):
        lines = cpuinfo.read_text().splitlines()
        flags = next((line.split() for line in lines if line.startswith(("flags", "Features"))), None)  # x86, Arm
        return flags is None or not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)
    return True


def seed_of(seed: int, *place: int | str) -> int:
    """A 63-bit seed for one place in a run.

    Args:
        seed: of the run.
        place: what tells this place from others, such as step, kind and rank.
    """
    text = ":".join(str(part) for part in (seed, *place))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


class IntervalClock:
    """Tells when an interval has passed. It does not depend on the machine's time of day, which may be set.

    Args:
        minutes: length of the interval; None for one that never ends.
    """

    def __init__(self, minutes: float | None) -> None:
        self._seconds = None if minutes is None else 60 * minutes
        self.restart()

    def restart(self) -> None:
        """Begin a new interval."""
        self._began = time.monotonic()

    def is_due(self) -> bool:
        """Whether the interval has passed."""
        return self._seconds is not None and time.monotonic() - self._began >= self._seconds


class StopSignal:
    """SIGTERM or Ctrl-C during a run: remembered while there is something to save, otherwise it ends the run.

    This is a context around the run. Entering it again inside does nothing more. From `remember()` on, the loop looks
    at `received` after each step and saves. Before that, while models and loaders are built, a signal raises
    SystemExit, or KeyboardInterrupt for Ctrl-C. So it does inside `leave_at_once()`, where everything is saved already.
    A second Ctrl-C raises KeyboardInterrupt anywhere.

    From the first signal on, a store that is away is waited for only for seconds: a scheduler kills what does not leave
    in time, and whoever waits for data or for the end of a save would be killed without a word.
    """

    def __init__(self) -> None:
        self._hurry: list[Callable[[], object]] = [storage.hurry, hurry_loader_processes]
        self.received = False
        """Whether this process was signalled."""
        self._remembers = False
        self._settled = False
        self._is_interrupt = False
        self._previous: dict[signal.Signals, _Handler] = {}
        self._entered = 0

    def __enter__(self) -> StopSignal:
        self._entered += 1
        # Python allows handlers nowhere else than in the main thread.
        if self._entered == 1 and threading.current_thread() is threading.main_thread():
            self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._handle)
            # Where Ctrl-C is ignored, as in the background of a script, it stays ignored.
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._handle_interrupt)
        return self

    def __exit__(self, *exception: object) -> None:
        self._entered -= 1
        self._remembers = False
        if self._entered == 0:
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            self._previous.clear()

    def remember(self) -> None:
        """From now on, finish the step that has begun, and save it, before leaving."""
        self._remembers = True

    @contextlib.contextmanager
    def hurrying(self, hurry: Callable[[], object]) -> Iterator[None]:
        """A block in which a signal calls `hurry`, too: it must let what waits for a store wait only for seconds."""
        self._hurry.append(hurry)
        try:
            yield
        finally:
            self._hurry.remove(hurry)

    def settle(self, own: bool) -> None:
        """All processes have agreed to stop. Signals that come later change nothing.

        Args:
            own: whether this process itself was signalled.
        """
        self._settled, self.received = True, own

    @property
    def exit_code(self) -> int:
        """The exit code of a process that has saved and leaves."""
        if not self.received:
            return EXIT_PEER_STOPPED
        return EXIT_INTERRUPTED if self._is_interrupt else EXIT_PREEMPTED

    @property
    def name(self) -> str:
        """What stopped the run, for messages."""
        return "Ctrl-C" if self._is_interrupt else "SIGTERM"

    @contextlib.contextmanager
    def leave_at_once(self) -> Iterator[None]:
        """A block that a signal cuts off: work after a save that takes long and can be done again."""
        before, self._remembers = self._remembers, False
        try:
            if self.received:
                raise SystemExit(self.exit_code)
            yield
        finally:
            self._remembers = before

    def _handle(self, number: int, frame: object) -> None:
        self._hurry_all()
        if self._settled:
            return
        is_first, self.received = not self.received, True
        # A second signal must not cut off the cleaning up that the first one began.
        if not self._remembers and is_first:
            raise SystemExit(EXIT_PREEMPTED)

    def _hurry_all(self) -> None:
        for hurry in self._hurry:
            hurry()

    def _handle_interrupt(self, number: int, frame: object) -> None:
        self._hurry_all()
        if self.received or not self._remembers:
            raise KeyboardInterrupt
        self.received = self._is_interrupt = True
        os.write(2, b"\nstopping: this step is finished and saved; Ctrl-C again leaves at once\n")
