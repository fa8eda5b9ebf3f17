"""What a training process tells of its own calls to stores: counts, and the phase `waiting_for_store`."""

from __future__ import annotations

import contextlib
import os
from tempfile import TemporaryDirectory
from threading import RLock

from cclm import storage
from cclm.events import Event, Journal, PhaseChanged
from cclm.launch_contract import STORE_WAITS
from cclm.metrics.phases import WAITING
from cclm.metrics.store_metrics import StoreMetrics, store_metrics_of_process
from cclm.metrics.waiting import Waiter, folder_of_marks

_own_folders: list[TemporaryDirectory[str]] = []
"""Of a process that no launcher has given a folder; deleted when the process ends."""


class StoreWaits:
    """A `storage.StorageObserver`: while a call waits for a store, the phase of the process is `WAITING`.

    Afterwards the phase is what it was before, which this object, also a sink of the journal, remembers. Loader
    processes and the writer call stores themselves. While they wait they have marks (`cclm.metrics.waiting`).

    Args:
        journal: gets a `PhaseChanged`, in the thread that waits.
        metrics: counts the calls, and marks this process while it waits; None: nobody does.
    """

    def __init__(self, journal: Journal, metrics: StoreMetrics | None) -> None:
        self._journal, self._metrics = journal, metrics
        self._lock = RLock()
        self._calls_that_wait = 0
        self._phase = "preparing"
        """Without the waiting."""

    def handle(self, event: Event) -> None:
        """Remember the phase."""
        if isinstance(event, PhaseChanged) and event.phase != WAITING:
            self._phase = event.phase

    def outage_began(self, store: str) -> None:
        if self._metrics is not None:
            self._metrics.outage_began(store)
        with self._lock:
            self._calls_that_wait += 1
            if self._calls_that_wait == 1:
                self._journal.emit(PhaseChanged(WAITING))

    def outage_ended(self, store: str) -> None:
        if self._metrics is not None:
            self._metrics.outage_ended(store)
        with self._lock:
            self._calls_that_wait -= 1
            if self._calls_that_wait == 0:
                self._journal.emit(PhaseChanged(self._phase))

    def call_ended(self, store: str, outcome: storage.Outcome) -> None:
        if self._metrics is not None:
            self._metrics.call_ended(store, outcome)

    def bytes_read(self, store: str, size: int) -> None:
        if self._metrics is not None:
            self._metrics.bytes_read(store, size)

    def bytes_written(self, store: str, size: int) -> None:
        if self._metrics is not None:
            self._metrics.bytes_written(store, size)

    def retried(self, store: str) -> None:
        if self._metrics is not None:
            self._metrics.retried(store)

    def waited(self, store: str, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.waited(store, seconds)


def observe_stores(journal: Journal) -> None:
    """Tell `journal` and the metrics of this process of its calls to stores, from now on.

    Call it before the processes are started that have marks where this one looks: loader processes and the writer.
    """
    if folder_of_marks() is None:
        with contextlib.suppress(OSError):  # a full disk: then only this process says that it waits
            _own_folders.append(TemporaryDirectory(prefix="cclm-waits-"))
            os.environ[STORE_WAITS] = _own_folders[-1].name
    waits = StoreWaits(journal, store_metrics_of_process(Waiter.TRAINING))
    journal.sinks.append(waits)
    storage.set_observer(waits)
