"""Which processes of a pod wait for a store. Each of them has a mark meanwhile: an empty file in a folder of the pod.

Loader processes, the writer and the launcher call stores themselves, and have no way to tell the training process that
they wait. Whoever shows a phase looks at the marks: the endpoint of the pod, and `status.json`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from threading import Lock

from cclm.launch_contract import METRICS_FOLDER, STORE_WAITS
from cclm.metrics.phases import FINAL, SAVING, WAITING
from cclm.processes import has_ended

_MARK = re.compile(r"waits-([a-z]+)-(\d+)")


class Waiter(StrEnum):
    """What a process that waits does otherwise."""

    TRAINING = "training"
    LOADER = "loader"
    WRITER = "writer"
    LAUNCHER = "launcher"


def folder_of_marks() -> Path | None:
    """Where the processes of this pod have their marks; None: nobody looks at them."""
    folder = os.environ.get(METRICS_FOLDER) or os.environ.get(STORE_WAITS)
    return Path(folder) if folder else None


class WaitingMark:
    """The mark of this process. Several threads may wait at once; a mark that cannot be made is left out.

    Args:
        waiter: what this process does.
    """

    def __init__(self, waiter: Waiter) -> None:
        self._waiter = waiter
        self._lock = Lock()
        self._calls = 0
        """Calls that wait."""
        self._path: Path | None = None

    def begin(self) -> None:
        """A call waits from now on."""
        with self._lock:
            self._calls += 1
            folder = folder_of_marks()
            if self._calls == 1 and folder is not None:
                self._path = folder / f"waits-{self._waiter}-{os.getpid()}"
                with contextlib.suppress(OSError):
                    self._path.touch()

    def end(self) -> None:
        """A call waits no more."""
        with self._lock:
            self._calls -= 1
            if self._calls == 0 and self._path is not None:
                with contextlib.suppress(OSError):
                    self._path.unlink()


def waiters(folder: Path | None) -> set[Waiter]:
    """What the processes do that wait now. Marks of processes that were killed are removed."""
    found = set()
    for path in [] if folder is None else folder.glob("waits-*"):
        if (match := _MARK.fullmatch(path.name)) is None:
            continue
        if has_ended(int(match[2])):
            with contextlib.suppress(OSError):
                path.unlink()
        else:
            found.add(Waiter(match[1]))
    return found


def phase_with_waits(phase: str, waiting: Collection[Waiter]) -> str:
    """The phase of a pod: `waiting_for_store` if one of its processes waits for a store, otherwise what it does.

    A writer that waits holds up nobody as long as training goes on. So it counts only while training waits for a save.

    Args:
        phase: what the training process, or without one the launcher, says.
        waiting: what `waiters` has found.
    """
    holds_up = any(waiter is not Waiter.WRITER or phase == SAVING for waiter in waiting)
    return WAITING if holds_up and phase not in FINAL else phase
