"""What surrounds a training process: threads, precision, seeds, and the signal to stop."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cclm.launch_contract import EXIT_INTERRUPTED, EXIT_PEER_STOPPED, EXIT_PREEMPTED


def set_threads(device: torch.device) -> int:
    """Share the cores of this machine among its training processes, where the CPU computes; returns the threads used.

    torchrun sets OMP_NUM_THREADS=1 as soon as it starts more than one process. Any other value is the user's and stays.
    """
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    wish = os.environ.get("OMP_NUM_THREADS")
    set_by_torchrun = wish == "1" and local_processes > 1
    if device.type == "cpu" and (wish is None or set_by_torchrun):
        torch.set_num_threads(max(1, usable_cores() // local_processes))
    return torch.get_num_threads()


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and the CPU quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))  # "max": no quota, ValueError
    return cores


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context of every forward pass. `precision` as in TrainingConfig."""
    lower = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=lower)


def seed_of(seed: int, *place: int | str) -> int:
    """A 63-bit seed for one place of a run, such as (step, kind, rank)."""
    text = ":".join(str(part) for part in (seed, *place))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


class IntervalClock:
    """Tells when so many minutes have passed; setting the machine's time does not move it.

    Args:
        minutes: None: never.
    """

    def __init__(self, minutes: float | None) -> None:
        self._seconds = None if minutes is None else 60 * minutes
        self.restart()

    def restart(self) -> None:
        self._began = time.monotonic()

    def is_due(self) -> bool:
        return self._seconds is not None and time.monotonic() - self._began >= self._seconds


class StopSignal:
    """SIGTERM or Ctrl-C during a run. Where there is something to save it is remembered, elsewhere it ends the run.

    A context around the run; entering it again inside does nothing more. From `remember()` on, the loop looks at
    `received` after each step and saves; before (models and loaders are built) and in `leave_at_once()` (what came
    before is saved) SystemExit is raised, or KeyboardInterrupt. So it is at a second Ctrl-C, anywhere.
    """

    def __init__(self) -> None:
        self.received = False
        self._remembers = False
        self._settled = False
        self._is_interrupt = False
        self._previous: dict[signal.Signals, Any] = {}
        self._entered = 0

    def __enter__(self) -> StopSignal:
        self._entered += 1
        # Python allows handlers nowhere else than in the main thread.
        if self._entered == 1 and threading.current_thread() is threading.main_thread():
            self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._handle)
            # Ctrl-C may be ignored, as in the background of a script: then it stays so.
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
        """From now on a step that has begun is finished, and saved."""
        self._remembers = True

    def settle(self, own: bool) -> None:
        """All processes agreed to stop; `own` says whether this one was signalled. What comes now changes nothing."""
        self._settled, self.received = True, own

    @property
    def exit_code(self) -> int:
        """Of a process that saved and left."""
        if not self.received:
            return EXIT_PEER_STOPPED
        return EXIT_INTERRUPTED if self._is_interrupt else EXIT_PREEMPTED

    @property
    def name(self) -> str:
        """Of what stopped the run, for messages."""
        return "Ctrl-C" if self._is_interrupt else "SIGTERM"

    @contextlib.contextmanager
    def leave_at_once(self) -> Iterator[None]:
        """For what takes long and can be done again, after a save."""
        before, self._remembers = self._remembers, False
        try:
            if self.received:
                raise SystemExit(self.exit_code)
            yield
        finally:
            self._remembers = before

    def _handle(self, number: int, frame: object) -> None:
        if self._settled:
            return
        again, self.received = self.received, True
        if not self._remembers and not again:  # a second one must not cut off what the first one makes clean up
            raise SystemExit(EXIT_PREEMPTED)

    def _handle_interrupt(self, number: int, frame: object) -> None:
        if self.received or not self._remembers:
            raise KeyboardInterrupt
        self.received = self._is_interrupt = True
        os.write(2, b"\nstopping: this step is finished and saved; Ctrl-C again leaves at once\n")
