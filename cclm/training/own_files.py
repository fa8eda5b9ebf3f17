"""The log and the list of broken records of a process on a machine that does not share the folder of the run."""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from cclm import distributed, storage
from cclm.data.stored.quarantine import quarantine_name
from cclm.training.places import RunPlaces
from cclm.training.run_files import fetch

log = logging.getLogger(__name__)

_LAST_SECONDS = 30.0
"""How long the end of a process waits for its files to be sent."""


class OwnFiles:
    """Sends what this process alone writes to the places of the run that are in stores.

    The first process sends what lies in the folder of the run. A process that shares this folder has nothing to send.
    Files are sent by a thread, since a store may be away for minutes.

    Raises:
        StoreUnavailable: a store does not answer.
    """

    def __init__(self, places: RunPlaces) -> None:
        self._folder = places.folder
        self._places = [] if places.is_shared else [place for place in places.all if not storage.is_local(place)]
        self._names = (places.log_name, quarantine_name(distributed.rank()))
        self._sent: dict[str, bytes] = {}
        self._thread: threading.Thread | None = None
        for name in self._names:  # an earlier start on another machine may have sent some
            for place in self._places:
                if not (self._folder / name).exists() and storage.exists(storage.join(place, name)):
                    fetch(storage.join(place, name), self._folder / name)
        if not places.is_shared:
            kept = "there alone" if not self._places else f"there, and in {self._places[-1]} with every checkpoint"
            log.warning(
                "this machine does not share the folder of the run: its warnings and broken records are kept in %s, %s",
                self._folder,
                kept,
            )

    def send(self) -> None:
        """Send what is new, unless that is going on."""
        if self._places and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._send, name="own files", daemon=True)
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.join(_LAST_SECONDS)
        self.send()
        if self._thread is not None:
            self._thread.join(_LAST_SECONDS)

    def _send(self) -> None:
        for name in self._names:
            with contextlib.suppress(FileNotFoundError, storage.StoreUnavailable, OSError):  # the next time may succeed
                content = Path(self._folder, name).read_bytes()
                if self._sent.get(name) != content:
                    for place in self._places:
                        storage.write_atomic(storage.join(place, name), content)
                    self._sent[name] = content
