"""Examples of some slots of a rank: read, parse, transform. Runs in a loader process, or in the training process.

A broken record of slot s at batch b is replaced by the first good record of the slot's next batches (b + 1, b + 2,
...). That record also keeps its own place in the order, so it is seen twice, and nothing else moves.
"""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import multiprocessing.connection
import os
import random
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from cclm import storage
from cclm.config.pretrain import PretrainConfig
from cclm.data.batches.shared_images import SharedImages, SharedImagesRef
from cclm.data.examples.images import Pixels
from cclm.data.examples.pretraining_examples import (
    SOURCES,
    Example,
    UndecodedExample,
    example_builder,
    example_rng,
)
from cclm.data.examples.tokenizer import load_tokenizer
from cclm.data.stored.audit import EpochCount, Tally
from cclm.data.stored.index import FileIndex
from cclm.data.stored.order import RecordRef, SampleOrder, split_slots
from cclm.data.stored.quarantine import Skipped
from cclm.data.stored.records import BrokenRecord
from cclm.data.stored.slots import SlotReader
from cclm.errors import UserError
from cclm.metrics.store_metrics import store_metrics_of_process
from cclm.metrics.waiting import Waiter

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # names of glibc's malloc.h


@dataclass(frozen=True)
class PartialBatch:
    """The examples of some slots of one batch, n of them."""

    images: Tensor | SharedImagesRef | None
    """(n, R, R, 3) uint8, or where a loader process put them; None for text."""
    examples: list[Example]
    """n examples, in the order of the slots."""
    skipped: list[Skipped] = field(default_factory=list)
    """Broken records of this partial batch."""
    tally: Tally = field(default_factory=dict)
    """All records of this partial batch, broken ones included, by epoch."""
    error: str | None = None
    """Set if training has to stop: the sentence for the user."""
    is_outage: bool = False
    """The error is that a store is unavailable, which may pass."""


class PartialBatchDataset(IterableDataset[PartialBatch]):
    """Endless partial batches of one source from batch `start` on.

    Each loader process yields its own share of `slots`; without loader processes, all slots come at once.

    Args:
        slots: those of this rank.
        shared: where loader processes put images; None without loader processes and for text.
    """

    def __init__(
        self,
        kind: str,
        config: PretrainConfig,
        indexes: list[FileIndex],
        order: SampleOrder,
        slots: range,
        start: int,
        shared: SharedImages | None,
    ) -> None:
        super().__init__()
        self._kind, self._config, self._indexes, self._order = kind, config, indexes, order
        self._slots, self._start, self._shared = slots, start, shared

    def __iter__(self) -> Iterator[PartialBatch]:
        worker = get_worker_info()
        slots = self._slots if worker is None else split_slots(self._slots, worker.id, worker.num_workers)
        reader = _ExampleReader(self._kind, self._config, self._indexes, self._order, slots)
        try:
            for number, read in enumerate(reader.batches(self._start)):
                images: Tensor | SharedImagesRef | None = None
                if read.images and worker is not None and self._shared is not None:
                    images = self._shared.write(worker.id, number, read.images)
                elif read.images:
                    images = torch.from_numpy(np.stack(read.images))
                yield PartialBatch(images, read.examples, read.skipped, read.tally)
        except (UserError, OSError) as error:
            # An exception that crosses processes arrives as a traceback; a sentence arrives as it is.
            yield PartialBatch(None, [], error=str(error), is_outage=isinstance(error, storage.StoreUnavailable))


class _DecodedExample(NamedTuple):
    example: Example
    image: Pixels | None


def _decode(undecoded: UndecodedExample | BrokenRecord) -> _DecodedExample:
    """Decode the image. Raises BrokenRecord, also the one that stands in place of an example."""
    if isinstance(undecoded, BrokenRecord):
        raise undecoded
    return _DecodedExample(undecoded.example, None if undecoded.decode is None else undecoded.decode())


@dataclass(frozen=True)
class _DecodedBatch:
    """As `PartialBatch`, with the images one by one."""

    images: list[Pixels]
    """n images (R, R, 3) uint8; none for text."""
    examples: list[Example]
    skipped: list[Skipped]
    tally: Tally


class _ExampleReader:
    """Reads the records of some slots and makes examples of them."""

    def __init__(
        self, kind: str, config: PretrainConfig, indexes: list[FileIndex], order: SampleOrder, slots: range
    ) -> None:
        self._kind, self._indexes, self._order, self._slots = kind, indexes, order, slots
        self._seed, self._source = config.seed, SOURCES.index(kind)
        self._build = example_builder(kind, config, load_tokenizer(config.model.text.tokenizer), indexes[0].format)
        self._max_in_a_row = config.data.broken.max_in_a_row
        self._reader = SlotReader(indexes, order, slots)
        self._reported: set[tuple[int, int]] = set()  # (file, record) of broken records whose place was reported

    def batches(self, start: int) -> Iterator[_DecodedBatch]:
        """The slots' part of the batches `start`, `start` + 1, ..., without end.

        Raises:
            UserError: too many records in a row are broken, or a file changes while it is read.
            OSError: a file cannot be read.
        """
        try:
            self._reader.start(start, self._slots)
            for batch in itertools.count(start):
                yield self._batch(batch)
        finally:
            self._reader.close()

    def _batch(self, batch: int) -> _DecodedBatch:
        skipped: list[Skipped] = []
        tally: Tally = {}
        refs = self._order.records_of(batch, self._slots)
        # All texts first, then all images: pretraining_examples.py says why.
        undecoded = [self._undecoded(batch, slot, ref) for slot, ref in zip(self._slots, refs, strict=True)]
        decoded = []
        for slot, ref, each in zip(self._slots, refs, undecoded, strict=True):
            count = tally.setdefault(ref.epoch, EpochCount())
            decoded.append(self._good_example(batch, slot, ref, each, count, skipped))
        images = [each.image for each in decoded if each.image is not None]
        return _DecodedBatch(images, [each.example for each in decoded], skipped, tally)

    def _undecoded(self, batch: int, slot: int, ref: RecordRef) -> UndecodedExample | BrokenRecord:
        """The example of the slot's record, or what is wrong with the record."""
        try:
            return self._build(self._reader.record(batch, slot, ref), self._rng(ref))
        except BrokenRecord as error:
            return error

    def _good_example(
        self,
        batch: int,
        slot: int,
        ref: RecordRef,
        undecoded: UndecodedExample | BrokenRecord,
        count: EpochCount,
        skipped: list[Skipped],
    ) -> _DecodedExample:
        """The example of the slot's record, or of the first good record after it; `count`, `skipped` are updated."""
        try:
            decoded = _decode(undecoded)
            count.see(ref.number)
            return decoded
        except BrokenRecord as error:
            count.skip(ref.number, error.kind)
            skipped.append(self._report(ref, error))
            last = error
        for ahead in range(1, self._max_in_a_row):
            ref = self._order.records_of(batch + ahead, range(slot, slot + 1))[0]
            try:
                return _decode(self._build(self._reader.alone(ref), self._rng(ref)))
            except BrokenRecord as error:
                last = error
        raise UserError(
            f"data.{self._kind}: {self._max_in_a_row} records in a row are broken, the last one at "
            f"{self._report(ref, last).place} ({last}); check the files and the keys in the config"
        )

    def _rng(self, ref: RecordRef) -> random.Random:
        return example_rng(self._seed, self._source, ref.epoch, ref.number)

    def _report(self, ref: RecordRef, error: BrokenRecord) -> Skipped:
        index = self._indexes[ref.file]
        start, end = index.byte_range(ref.record, ref.record + 1)
        is_new = (ref.file, ref.record) not in self._reported
        self._reported.add((ref.file, ref.record))
        line = index.line_number(ref.record) if is_new else None
        return Skipped(error.kind, error.detail, index.url, start, end - start, line, is_new)


def start_worker(_: int) -> None:
    """What a loader process does first (`worker_init_fn`).

    SIGINT and SIGTERM do not end it. They may go to the whole process group (Ctrl-C, a pod's end), and the data must
    not be gone while the training process still saves. After a SIGTERM it waits for a store that is away only for
    seconds.

    It ends as soon as the training process is gone, for whatever reason. torch does not see to that here: it watches
    the parent, which is the forkserver, and the forkserver lives as long as its children.
    """
    threading.Thread(target=_end_with_training, daemon=True).start()
    storage.set_observer(store_metrics_of_process(Waiter.LOADER))
    _keep_memory()
    torch.set_num_threads(1)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, frame: storage.hurry())


def _keep_memory() -> None:
    """Make glibc keep the memory of one run of records for the next one.

    Memory that is returned to the kernel costs time when it is taken again: the kernel clears every page.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_ARENA_MAX, 1)  # reads happen in threads; each would keep memory of its own
        library.mallopt(_MMAP_THRESHOLD, 32 << 20)  # the largest value that glibc accepts
        library.mallopt(_TRIM_THRESHOLD, 1 << 30)


def _end_with_training() -> None:
    training = multiprocessing.parent_process()
    if training is not None:
        multiprocessing.connection.wait([training.sentinel])
        os._exit(1)
