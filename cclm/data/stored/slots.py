"""The bytes of records, slot by slot: each run is fetched by one read, ahead of its turn."""

from __future__ import annotations

import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from cclm import storage
from cclm.data.stored.index import FileIndex
from cclm.data.stored.order import RecordRef, SampleOrder

_AT_ONCE = 8  # reads
_AHEAD = 64  # records decoded while the next run of a slot is on its way: 50 ms or more


@dataclass(frozen=True)
class _Run:
    """Neighbouring records of one file."""

    key: tuple[int, int, int]
    """File, first record, record after the last."""
    data: memoryview
    offsets: list[int]


class SlotReader:
    """Holds the present run of each slot, and near its end the next one, fetched by a thread.

    So a worker's memory is bounded by its slots, and it decodes while the store answers.
    """

    def __init__(self, indexes: list[FileIndex], order: SampleOrder, slots: range) -> None:
        self._indexes, self._order = indexes, order
        self._ahead = max(1, _AHEAD // max(1, len(slots)))  # batches
        self._runs: dict[int, _Run] = {}
        self._coming: dict[int, tuple[tuple[int, int, int], Future[_Run]]] = {}
        self._pool = ThreadPoolExecutor(min(_AT_ONCE, max(1, len(slots))), thread_name_prefix="cclm-read")

    def start(self, batch: int, slots: range) -> None:
        """Fetch the first run of all slots at the same time."""
        for slot, ref in zip(slots, self._order.records_of(batch, slots), strict=True):
            self._fetch_later(slot, ref)

    def record(self, batch: int, slot: int, ref: RecordRef) -> memoryview:
        """The bytes of the record that the slot has in this batch, where they were read to: to be parsed, not kept."""
        key = _key(ref)
        run = self._runs.get(slot)
        if run is None or run.key != key:
            coming = self._coming.pop(slot, None)
            run = self._fetch(ref) if coming is None or coming[0] != key else coming[1].result()
            self._runs[slot] = run
        if ref.left < self._ahead and slot not in self._coming:
            [following] = self._order.records_of(batch + ref.left + 1, range(slot, slot + 1))
            self._fetch_later(slot, following)
        at = ref.record - ref.run[0]
        return run.data[run.offsets[at] - run.offsets[0] : run.offsets[at + 1] - run.offsets[0]]

    def alone(self, ref: RecordRef) -> memoryview:
        """The bytes of one record, without touching the runs of the slots."""
        start, end = self._indexes[ref.file].byte_range(ref.record, ref.record + 1)
        return memoryview(storage.read_range(self._indexes[ref.file].url, start, end))

    def close(self) -> None:
        """Let go of what is on its way."""
        if not sys.is_finalizing():  # then its threads are gone
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _fetch_later(self, slot: int, ref: RecordRef) -> None:
        self._coming[slot] = _key(ref), self._pool.submit(self._fetch, ref)

    def _fetch(self, ref: RecordRef) -> _Run:
        index = self._indexes[ref.file]
        offsets = index.offsets(*ref.run)
        return _Run(_key(ref), memoryview(storage.read_range(index.url, offsets[0], offsets[-1])), offsets)


def _key(ref: RecordRef) -> tuple[int, int, int]:
    return (ref.file, *ref.run)
