"""Keeps the small files of a run (log, metrics, results) equal in its remote places as they change.

Signs of life (`status.json`) go a way of their own, since a save may take longer than a reader waits for them.

Two processes may train the same run for a while: a machine that is cut off goes on, and so does what replaces it. The
files of the one that is behind are not sent, as they would replace those of the other.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cclm import storage
from cclm.metrics.log_file import LOG
from cclm.metrics.metrics_file import METRICS
from cclm.metrics.status_file import EVALUATION, STATUS

_INTERVAL = 60.0
"""Seconds between rounds of sending, and between signs of life."""
_SIGNS = (STATUS, EVALUATION)
"""Files whose time is a sign of life. They are small."""
_HISTORY = (LOG, METRICS)
"""Files that tell of every step of the run. What is lost of them nobody writes again."""
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
        is_behind: whether the run has gone on in a place without this process. Then nothing is sent there. It is asked
            before each try to send, as an outage may end after hours.
    """

    def __init__(self, folder: str, places: Sequence[str], is_behind: Callable[[str], bool] = lambda _: False) -> None:
        self.names: set[str] = set()
        self._folder = Path(folder)
        self._places = places
        self._is_behind = is_behind
        self._sent: dict[_Copy, _Version] = {}
        """The version of each file that is in each place."""
        self._locks: defaultdict[_Copy, threading.Lock] = defaultdict(threading.Lock)
        """An older state of a sign of life must not replace a newer one that another thread has sent meanwhile."""
        self._next = time.monotonic()

    def seconds_to_wait(self) -> float | None:
        """Seconds until the next round; None where there is no place to send to."""
        return max(0.0, self._next - time.monotonic()) if self._places else None

    @contextlib.contextmanager
    def showing_life(self, every: float = _INTERVAL) -> Iterator[None]:
        """Send signs of life from a thread for as long as the context lasts, whatever else this process does.

        Args:
            every: seconds between them.
        """
        is_over = threading.Event()

        def send() -> None:
            while not is_over.wait(every):
                self.send_signs()

        if self._places:
            threading.Thread(target=send, name="signs of life", daemon=True).start()
        try:
            yield
        finally:
            is_over.set()  # the thread may be waiting for a store, and is not waited for

    def send_signs(self) -> None:
        """Send the signs of life that changed. What cannot be sent is left to `send_all`, which says so."""
        for place in self._places:
            for path in (self._folder / name for name in _SIGNS if name in self.names):
                with contextlib.suppress(OSError):
                    self._send(place, path)

    def send_all(self) -> list[str]:
        """Send every file that changed; returns what could not be sent, in words, to be tried again next time."""
        began = time.monotonic()
        problems = [problem for place in self._places for problem in self.send_to(place)]
        took = time.monotonic() - began
        self._next = time.monotonic() + max(_INTERVAL, _REST * took)
        return problems

    def send_to(self, place: str) -> list[str]:
        """Send every file that changed to one place, if it is one of `places`; returns as `send_all`."""
        problems: list[str] = []
        for path in sorted({path for name in self.names for path in self._folder.glob(name)}):
            try:
                if place in self._places:
                    self._send(place, path)
            except storage.StoreUnavailable as error:
                return [*problems, f"{path} could not be sent to {place} ({error})"]  # each file would wait as long
            except OSError as error:
                problems.append(f"{path} could not be sent to {place} ({error})")
        return problems

    def _send(self, place: str, path: Path) -> None:
        copy = _Copy(place, path.relative_to(self._folder).as_posix())
        with self._locks[copy]:
            stat = path.stat()
            version = _Version(stat.st_size, stat.st_mtime_ns)
            url = storage.join(copy.place, copy.name)
            if self._sent.get(copy) != version or _is_replaced(url, version.size):
                # A log grows while it is sent. It is read first, so that the copy is a state that the log really had.
                data = path.read_bytes()
                if storage.write_unless(url, data, lambda: self._is_behind(place)):
                    self._sent[copy] = version


def _is_replaced(url: str, size: int) -> bool:
    """Whether log or metrics, of which `size` bytes were sent to `url`, are no longer there.

    A process that is behind may have begun to send its own before it could know that it is.
    """
    try:
        return storage.name(url) in _HISTORY and storage.size(url) != size
    except FileNotFoundError:
        return True
