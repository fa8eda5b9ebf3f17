"""Reads the bytes of records for the slots of a loader process: each run by one read, before it is needed.

Slots and runs are defined in `order.py`.
"""

from __future__ import annotations

import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from cclm import storage
from cclm.data.stored.index import FileIndex
from cclm.data.stored.order import RecordRef, SampleOrder

_THREADS = 8  # reads at the same time
_AHEAD = 64  # a run is fetched this many records before it is needed; to decode them takes 50 ms or more


_RunKey = tuple[int, int, int]
"""File, first record, record after the last one. A bare tuple, since one is made for every record."""


@dataclass(frozen=True)
class _FetchedRun:
    """Neighbouring records of one file."""

    key: _RunKey
    data: memoryview
    """The bytes of all its records."""
    offsets: list[int]
    """Where each record starts in the file, then where the last one ends."""


class _NextRun(NamedTuple):
    """A run that is being fetched."""

    key: _RunKey
    run: Future[_FetchedRun]


class SlotReader:
    """Holds the current run of each slot. Near the end of a run, a thread fetches the next one.

    So the memory of a loader process is bounded by the number of its slots, and it decodes while the store answers.
    """

    def __init__(self, indexes: list[FileIndex], order: SampleOrder, slots: range) -> None:
        self._indexes, self._order = indexes, order
        self._ahead = max(1, _AHEAD // max(1, len(slots)))  # batches
        self._runs: dict[int, _FetchedRun] = {}
        self._next_runs: dict[int, _NextRun] = {}
        self._pool = ThreadPoolExecutor(min(_THREADS, max(1, len(slots))), thread_name_prefix="cclm-read")

    def start(self, batch: int, slots: range) -> None:
        """Fetch the first run of all slots at the same time."""
        for slot, ref in zip(slots, self._order.records_of(batch, slots), strict=True):
            self._fetch_later(slot, ref)

    def record(self, batch: int, slot: int, ref: RecordRef) -> memoryview:
        """The bytes of `ref`, which is the record of the slot in this batch.

        They are a view of the whole run and keep its memory alive: parse them, do not keep them.
        """
        key = _key(ref)
        run = self._runs.get(slot)
        if run is None or run.key != key:
            fetched = self._next_runs.pop(slot, None)
            run = self._fetch(ref) if fetched is None or fetched.key != key else fetched.run.result()
            self._runs[slot] = run
        if ref.left < self._ahead and slot not in self._next_runs:
            [following] = self._order.records_of(batch + ref.left + 1, range(slot, slot + 1))
            self._fetch_later(slot, following)
        at = ref.record - ref.run[0]
        return run.data[run.offsets[at] - run.offsets[0] : run.offsets[at + 1] - run.offsets[0]]

    def alone(self, ref: RecordRef) -> memoryview:
        """The bytes of one record, which is read alone; the runs of the slots stay as they are."""
        start, end = self._indexes[ref.file].byte_range(ref.record, ref.record + 1)
        return memoryview(storage.read_range(self._indexes[ref.file].url, start, end))

    def close(self) -> None:
        """Cancel the reads that have not begun, and do not wait for the others."""
        if not sys.is_finalizing():  # At the end of the interpreter the threads are gone already.
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _fetch_later(self, slot: int, ref: RecordRef) -> None:
        self._next_runs[slot] = _NextRun(_key(ref), self._pool.submit(self._fetch, ref))

    def _fetch(self, ref: RecordRef) -> _FetchedRun:
        index = self._indexes[ref.file]
        offsets = index.offsets(*ref.run)
        return _FetchedRun(_key(ref), memoryview(storage.read_range(index.url, offsets[0], offsets[-1])), offsets)


def _key(ref: RecordRef) -> _RunKey:
    return (ref.file, *ref.run)
