"""Calls to stores as metrics of Prometheus, and a mark while they wait, in every process that makes such calls."""

from __future__ import annotations

from threading import Lock

from cclm.metrics import catalogue
from cclm.metrics.catalogue import Metric
from cclm.metrics.prometheus import Exported, is_exported
from cclm.metrics.waiting import Waiter, WaitingMark, folder_of_marks


class StoreMetrics:
    """Counts calls to stores, and marks this process while it waits. It has the methods of `storage.StorageObserver`.

    Nothing is imported or opened before the first call to a store, so a process that only reads local files pays
    nothing.

    Args:
        waiter: what this process does.
        exported: where counts go; None: to the files of this process.
        is_counted: whether calls are counted, too.
    """

    def __init__(self, waiter: Waiter, exported: Exported | None = None, *, is_counted: bool = True) -> None:
        self._mark = WaitingMark(waiter)
        self._lock = Lock()
        self._exported = exported
        self._stores: set[str] = set()
        """Those whose counters have begun."""
        self._is_counted = is_counted

    def call_ended(self, store: str, outcome: str) -> None:
        self._increase(catalogue.STORAGE_CALLS, 1, store, outcome)

    def bytes_read(self, store: str, size: int) -> None:
        self._increase(catalogue.STORAGE_BYTES, size, store, "read")

    def bytes_written(self, store: str, size: int) -> None:
        self._increase(catalogue.STORAGE_BYTES, size, store, "written")

    def outage_began(self, store: str) -> None:
        self._mark.begin()

    def retried(self, store: str) -> None:
        self._increase(catalogue.STORAGE_RETRIES, 1, store)

    def waited(self, store: str, seconds: float) -> None:
        self._increase(catalogue.STORAGE_OUT, seconds, store)

    def outage_ended(self, store: str) -> None:
        self._mark.end()

    def _increase(self, metric: Metric, amount: float, store: str, *labels: str) -> None:
        if not self._is_counted:
            return
        with self._lock:
            self._begin(store).increase(metric, amount, store, *labels)

    def _begin(self, store: str) -> Exported:
        """Where values go. All counters of a store begin with 0, so that what they count is an increase."""
        if self._exported is None:
            self._exported = Exported()
        if store not in self._stores:
            for outcome in catalogue.STORAGE_OUTCOMES:
                self._exported.increase(catalogue.STORAGE_CALLS, 0, store, outcome)
            for direction in catalogue.STORAGE_DIRECTIONS:
                self._exported.increase(catalogue.STORAGE_BYTES, 0, store, direction)
            self._exported.increase(catalogue.STORAGE_RETRIES, 0, store)
            self._exported.increase(catalogue.STORAGE_OUT, 0, store)
            self._stores.add(store)
        return self._exported


def store_metrics_of_process(waiter: Waiter) -> StoreMetrics | None:
    """The observer of this process's calls to stores; None where nothing is exported and nobody looks at marks.

    Args:
        waiter: what this process does.
    """
    return None if folder_of_marks() is None else StoreMetrics(waiter, is_counted=is_exported())
