"""What an observer hears of this process's calls to stores. Local files are no store, and are not observed.

`set_observer` is the one place where the observer is set. Without one, a call costs a few attribute look-ups more.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol, Self

_STORES = {"hdfs": "hdfs", "viewfs": "hdfs", "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
_OTHER = "other"


class Outcome(StrEnum):
    """How a call to a store ended, after all its tries."""

    OK = "ok"
    ABSENT = "absent"
    EXISTS = "exists"
    DENIED = "denied"
    UNAVAILABLE = "unavailable"
    """The outage outlasted `patience()`."""
    FAILED = "failed"
    """Any other error."""


class StorageObserver(Protocol):
    """Hears of calls to stores, in the thread that makes them. Several threads may call at once.

    `store` is `hdfs`, `s3`, `gs`, or `other` for what else fsspec opens. An observer raises nothing.
    """

    def call_ended(self, store: str, outcome: Outcome) -> None:
        """A call has ended, after all its tries."""

    def bytes_read(self, store: str, size: int) -> None:
        """A call has read `size` bytes."""

    def bytes_written(self, store: str, size: int) -> None:
        """A call has written `size` bytes."""

    def outage_began(self, store: str) -> None:
        """The first try of a call has met an outage. `outage_ended` follows for each call."""

    def retried(self, store: str) -> None:
        """A call that met an outage is about to be tried again."""

    def waited(self, store: str, seconds: float) -> None:
        """A call has lost `seconds` to an outage: by a try that failed, or by the pause after it."""

    def outage_ended(self, store: str) -> None:
        """A call that met an outage has ended, in whatever way."""


_observer: StorageObserver | None = None


def set_observer(observer: StorageObserver | None) -> None:
    """Let `observer` hear of the calls that this process begins from now on, in place of the one before; None: none."""
    global _observer
    _observer = observer


def report_read(url: str, size: int) -> None:
    """`size` bytes of `url` have been read."""
    if _observer is not None:
        _observer.bytes_read(store_of(url), size)


def report_written(url: str, size: int) -> None:
    """`size` bytes have been written to `url`."""
    if _observer is not None:
        _observer.bytes_written(store_of(url), size)


def store_of(url: str) -> str:
    """`hdfs`, `s3`, `gs`, or `other`."""
    return _STORES.get(url.partition("://")[0], _OTHER)


class ObservedCall:
    """A context that tells the observer of one call. The call ends with it."""

    def __init__(self, url: str) -> None:
        self.outcome: Outcome | None = Outcome.FAILED
        """Set before the context ends. None: nothing was asked of the store, so the observer hears of no call."""
        self._observer = _observer
        self._url = url
        self._is_out = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._observer is None:
            return
        store = store_of(self._url)
        if self._is_out:
            self._observer.outage_ended(store)
        if self.outcome is not None:
            self._observer.call_ended(store, self.outcome)

    def try_failed(self, seconds: float) -> None:
        """A try has met an outage after `seconds`."""
        if self._observer is None:
            return
        store = store_of(self._url)
        if not self._is_out:
            self._is_out = True
            self._observer.outage_began(store)
        self._observer.waited(store, seconds)

    def retry(self, pause: float) -> None:
        """The call is tried again, after `pause` seconds."""
        if self._observer is not None:
            store = store_of(self._url)
            self._observer.waited(store, pause)
            self._observer.retried(store)
