"""The lock of a run's local folder, which keeps two writers of one machine from working on the folder at once."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import TextIO

LOCK = ".writer.lock"
"""File of a run's local folder that its writer keeps locked."""


def open_lock(folder: str) -> TextIO:
    """Open `LOCK` of a run's local folder, for `take_lock`."""
    return open(Path(folder) / LOCK, "a")  # closed by the caller


def take_lock(lock: TextIO, seconds: float = 60.0) -> bool:
    """Lock a folder against the other writers of this machine; wait for them, but not for ever.

    A writer outlives its training process to finish a save, and whoever starts the run again wants to find that save.
    The lock is held until all file descriptors of `lock` are closed, those that other processes inherited included.

    Returns:
        False: after `seconds` another writer still held the lock. True: it is ours, or the file system has no locks.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
        except OSError:  # a file system without locks
            return True
