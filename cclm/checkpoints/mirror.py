"""Small files of a run - log, metrics, results - kept equal in its remote places, as they change."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from cclm import storage

_INTERVAL = 60.0
"""Seconds between looks."""
_REST = 20
"""A sending that took t seconds is followed by at least _REST * t of rest: logs grow, and are sent whole."""


class Mirror:
    """Copies of some files of a local folder; `names` says which, as names or patterns relative to it.

    Args:
        folder: local.
        places: URLs of the folders that hold the copies.
    """

    def __init__(self, folder: str, places: Sequence[str]) -> None:
        self.names: set[str] = set()
        self._folder = Path(folder)
        self._places = places
        self._sent: dict[tuple[str, str], tuple[int, int]] = {}
        """(place, name) -> size and time of change of what is there."""
        self._next = time.monotonic()

    def seconds_to_wait(self) -> float | None:
        """Until the next look; None where there is nothing to send to."""
        return max(0.0, self._next - time.monotonic()) if self._places else None

    def send_all(self) -> list[str]:
        """Send every file that changed; returns what could not be sent, in words, to be tried again next time."""
        began = time.monotonic()
        problems = []
        for place in self._places:
            for path in sorted({path for name in self.names for path in self._folder.glob(name)}):
                try:
                    self._send(place, path)
                except OSError as error:
                    problems.append(f"{path} could not be sent to {place} ({error})")
        took = time.monotonic() - began
        self._next = time.monotonic() + max(_INTERVAL, _REST * took)
        return problems

    def _send(self, place: str, path: Path) -> None:
        stat = path.stat()
        version = (stat.st_size, stat.st_mtime_ns)
        name = path.relative_to(self._folder).as_posix()
        if self._sent.get((place, name)) != version:
            # Read first: a log grows while it is sent, and what is there must be a state it really had.
            storage.write_atomic(storage.join(place, name), path.read_bytes())
            self._sent[place, name] = version
