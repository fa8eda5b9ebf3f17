"""Calls to stores as metrics of Prometheus, in every process that makes such calls."""

from __future__ import annotations

from threading import Lock

from cclm.metrics import catalogue
from cclm.metrics.catalogue import Metric
from cclm.metrics.prometheus import Exported, is_exported


class StoreMetrics:
    """Counts calls to stores. It has the methods of `cclm.storage.StorageObserver`.

    Nothing is imported or opened before the first call to a store, so a process that only reads local files pays
    nothing.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._exported: Exported | None = None
        self._stores: set[str] = set()
        """Those whose counters have begun."""

    def call_ended(self, store: str, outcome: str) -> None:
        self._increase(catalogue.STORAGE_CALLS, 1, store, outcome)

    def bytes_read(self, store: str, size: int) -> None:
        self._increase(catalogue.STORAGE_BYTES, size, store, "read")

    def bytes_written(self, store: str, size: int) -> None:
        self._increase(catalogue.STORAGE_BYTES, size, store, "written")

    def outage_began(self, store: str) -> None:
        """Nothing is counted."""

    def retried(self, store: str) -> None:
        self._increase(catalogue.STORAGE_RETRIES, 1, store)

    def waited(self, store: str, seconds: float) -> None:
        self._increase(catalogue.STORAGE_OUT, seconds, store)

    def outage_ended(self, store: str) -> None:
        """Nothing is counted."""

    def _increase(self, metric: Metric, amount: float, store: str, *labels: str) -> None:
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


def store_metrics_of_process() -> StoreMetrics | None:
    """The observer of this process's calls to stores; None where nothing is exported."""
    return StoreMetrics() if is_exported() else None
