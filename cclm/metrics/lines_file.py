"""A text file that grows by lines and loses none when its disk is full."""

from __future__ import annotations

import threading
from io import FileIO
from pathlib import Path

from cclm.events import FileRefused, Journal, LinesLost


class LinesFile:
    """Appends lines to a file. Lines that the disk does not take wait in memory, in order, and are tried again later.

    A full disk ends no run here. It makes saves of checkpoints fail, and too many failed saves end the run.

    Args:
        journal: gets `FileRefused`, once for all that is refused in a row, and `LinesLost`.
    """

    def __init__(self, path: Path, journal: Journal) -> None:
        self.path = path
        self._journal = journal
        self._waiting = b""
        self._is_refused = False
        self._lock = threading.Lock()  # reader threads log warnings

    def append(self, lines: str) -> None:
        """Write what waits, then `lines`: whole lines with their ends, or nothing."""
        with self._lock:
            self._waiting += lines.encode("utf-8", "backslashreplace")
            refusal = self._write()
        if refusal is not None:
            self._journal.emit(FileRefused(str(self.path), refusal))

    def close(self) -> None:
        """Try what waits a last time."""
        with self._lock:
            self._write()
            lost = self._waiting.count(b"\n")
        if lost:
            self._journal.emit(LinesLost(str(self.path), lost))

    def _write(self) -> str | None:
        """Write what waits. Returns why that cannot be done, but only the first time in a row."""
        if not self._waiting:
            return None
        try:
            with self.path.open("ab", buffering=0) as file:
                _append(file, self._waiting)
        except OSError as error:
            is_known, self._is_refused = self._is_refused, True
            return None if is_known else error.strerror or str(error)
        self._waiting, self._is_refused = b"", False
        return None


def _append(file: FileIO, data: bytes) -> None:
    """Add all of `data` or nothing: readers stumble over half a line of JSON that others follow."""
    rest = data
    try:
        while rest:
            rest = rest[file.write(rest) :]  # a disk that becomes full takes a part
    except OSError:
        if rest != data:
            file.truncate(file.tell() - (len(data) - len(rest)))
        raise
