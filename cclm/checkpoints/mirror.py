"""Keeps the small files of a run (log, metrics, results) equal in its remote places as they change."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cclm import storage

_INTERVAL = 60.0
"""Seconds between rounds of sending."""
_REST = 20
"""After a round that took t seconds, at least _REST * t seconds pass before the next: logs grow, and are sent whole."""


class _Copy(NamedTuple):
    place: str
    name: str


class _Version(NamedTuple):
    size: int
    """Bytes."""
    changed: int
    """Time of the last change, in ns."""


class Mirror:
    """Copies of some files of a local folder: those that `names` lists, as names or patterns relative to it.

    Args:
        folder: local.
        places: URLs of the folders that hold the copies.
    """

    def __init__(self, folder: str, places: Sequence[str]) -> None:
        self.names: set[str] = set()
        self._folder = Path(folder)
        self._places = places
        self._sent: dict[_Copy, _Version] = {}
        """The version of each file that is in each place."""
        self._next = time.monotonic()

    def seconds_to_wait(self) -> float | None:
        """Seconds until the next round; None where there is no place to send to."""
        return max(0.0, self._next - time.monotonic()) if self._places else None

    def send_all(self) -> list[str]:
        """Send every file that changed; returns what could not be sent, in words, to be tried again next time."""
        began = time.monotonic()
        problems = [problem for place in self._places for problem in self.send_to(place)]
        took = time.monotonic() - began
        self._next = time.monotonic() + max(_INTERVAL, _REST * took)
        return problems

    def send_to(self, place: str) -> list[str]:
        """Send every file that changed to one place, if it is one of `places`; returns as `send_all`."""
        problems = []
        for path in sorted({path for name in self.names for path in self._folder.glob(name)}):
            try:
                if place in self._places:
                    self._send(place, path)
            except OSError as error:
                problems.append(f"{path} could not be sent to {place} ({error})")
        return problems

    def _send(self, place: str, path: Path) -> None:
        stat = path.stat()
        version = _Version(stat.st_size, stat.st_mtime_ns)
        copy = _Copy(place, path.relative_to(self._folder).as_posix())
        if self._sent.get(copy) != version:
            # A log grows while it is sent. It is read first, so that the copy is a state that the log really had.
            storage.write_atomic(storage.join(copy.place, copy.name), path.read_bytes())
            self._sent[copy] = version
