"""What surrounds a training process: threads, precision, seeds, and the signal to stop."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import threading
from pathlib import Path

import torch

EXIT_STOPPED = 143
"""Exit code after SIGTERM (128 + 15): the run was stopped from outside, saved, and can go on."""


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


class StopSignal:
    """Remembers SIGTERM instead of dying of it, so that the loop can finish its step and save."""

    def __init__(self) -> None:
        self.received = False
        self._previous = None

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._previous = signal.signal(signal.SIGTERM, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    def _remember(self, number: int, frame: object) -> None:
        self.received = True
