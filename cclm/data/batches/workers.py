"""One part of a rank's slots: read, parse, transform. Runs in a loader process, or in the training process itself.

A broken record of slot s at batch b is replaced by the first good one of the slot's next records (batches b + 1,
b + 2, ...); those keep their own places, so nothing else moves, and the replacement is seen twice.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.connection
import os
import random
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from cclm import storage
from cclm.config.pretrain import PretrainConfig
from cclm.data.batches.shared_images import Place, SharedImages
from cclm.data.examples.pretraining_examples import SOURCES, Draft, Example, example_maker, example_rng
from cclm.data.examples.tokenizer import load_tokenizer
from cclm.data.stored.audit import EpochCount, Tally
from cclm.data.stored.index import FileIndex
from cclm.data.stored.order import Order, RecordRef, split_slots
from cclm.data.stored.quarantine import Skipped
from cclm.data.stored.records import BrokenRecord
from cclm.data.stored.slots import SlotReader
from cclm.errors import UserError

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # names of glibc's malloc.h


@dataclass(frozen=True)
class Part:
    """Some slots of one batch."""

    images: Tensor | Place | None
    """(n, R, R, 3) uint8, or where a loader process put them; None for text."""
    examples: list[Any]
    """n examples, in the order of the slots."""
    skipped: list[Skipped] = field(default_factory=list)
    tally: Tally = field(default_factory=dict)
    """All records whose turn it was, by epoch."""
    error: str | None = None
    """Set if training has to stop: the sentence for the user."""
    is_outage: bool = False
    """The error is one of a store, for a time."""


class PartStream(IterableDataset):
    """Endless parts of one source from batch `start` on; each loader process yields its own share of `slots`."""

    def __init__(
        self,
        kind: str,
        config: PretrainConfig,
        indexes: list[FileIndex],
        order: Order,
        slots: range,
        start: int,
        shared: SharedImages | None,
    ) -> None:
        super().__init__()
        self._kind, self._config, self._indexes, self._order = kind, config, indexes, order
        self._slots, self._start, self._shared = slots, start, shared

    def __iter__(self) -> Iterator[Part]:
        info = get_worker_info()
        slots = self._slots if info is None else split_slots(self._slots, info.id, info.num_workers)
        maker = _PartMaker(self._kind, self._config, self._indexes, self._order, slots)
        try:
            for number, made in enumerate(maker.parts(self._start)):
                images: Tensor | Place | None = None
                if made.images and (info is None or self._shared is None):
                    images = torch.from_numpy(np.stack(made.images))
                elif made.images:
                    images = self._shared.write(info.id, number, made.images)
                yield Part(images, made.examples, made.skipped, made.tally)
        except (UserError, OSError) as error:
            # An exception that crosses processes arrives as a traceback; a sentence arrives as it is.
            yield Part(None, [], error=str(error), is_outage=isinstance(error, storage.StoreUnavailable))


@dataclass(frozen=True)
class _Finished:
    example: Example
    image: np.ndarray | None


def _finish(draft: Draft | BrokenRecord) -> _Finished:
    """Decode the image. Raises BrokenRecord."""
    if isinstance(draft, BrokenRecord):
        raise draft
    return _Finished(draft.example, None if draft.image is None else draft.image())


@dataclass(frozen=True)
class _Made:
    """As `Part`."""

    images: list[np.ndarray]
    """n images (R, R, 3) uint8; none for text."""
    examples: list[Any]
    skipped: list[Skipped]
    tally: Tally


class _PartMaker:
    def __init__(self, kind: str, config: PretrainConfig, indexes: list[FileIndex], order: Order, slots: range) -> None:
        self._kind, self._indexes, self._order, self._slots = kind, indexes, order, slots
        self._seed, self._source = config.seed, SOURCES.index(kind)
        self._make = example_maker(kind, config, load_tokenizer(config.model.text.tokenizer), indexes[0].format)
        self._most_in_a_row = config.data.broken.max_in_a_row
        self._reader = SlotReader(indexes, order, slots)
        self._named: set[tuple[int, int]] = set()  # records whose place was reported

    def parts(self, start: int) -> Iterator[_Made]:
        try:
            yield from self._parts(start)
        finally:
            self._reader.close()

    def _parts(self, start: int) -> Iterator[_Made]:
        self._reader.start(start, self._slots)
        batch = start
        while True:
            skipped: list[Skipped] = []
            tally: Tally = {}
            refs = self._order.records_of(batch, self._slots)
            drafts = [self._draft(batch, slot, ref) for slot, ref in zip(self._slots, refs, strict=True)]
            finished = []
            for slot, ref, draft in zip(self._slots, refs, drafts, strict=True):
                count = tally.setdefault(ref.epoch, EpochCount())
                finished.append(self._good_example(batch, slot, ref, draft, count, skipped))
            images = [each.image for each in finished if each.image is not None]
            yield _Made(images, [each.example for each in finished], skipped, tally)
            batch += 1

    def _draft(self, batch: int, slot: int, ref: RecordRef) -> Draft | BrokenRecord:
        """The draft of the slot's record, or what is wrong with it."""
        try:
            return self._make(self._reader.record(batch, slot, ref), self._rng(ref))
        except BrokenRecord as error:
            return error

    def _good_example(
        self,
        batch: int,
        slot: int,
        ref: RecordRef,
        draft: Draft | BrokenRecord,
        count: EpochCount,
        skipped: list[Skipped],
    ) -> _Finished:
        """The example of the slot's record, or of the first good one after it."""
        try:
            finished = _finish(draft)
            count.see(ref.number)
            return finished
        except BrokenRecord as error:
            count.skip(ref.number, error.kind)
            skipped.append(self._report(ref, error))
            last = error
        for ahead in range(1, self._most_in_a_row):
            ref = self._order.records_of(batch + ahead, range(slot, slot + 1))[0]
            try:
                return _finish(self._make(self._reader.alone(ref), self._rng(ref)))
            except BrokenRecord as error:
                last = error
        raise UserError(
            f"data.{self._kind}: {self._most_in_a_row} records in a row are broken, the last one at "
            f"{self._report(ref, last).place} ({last}); check the files and the keys in the config"
        )

    def _rng(self, ref: RecordRef) -> random.Random:
        return example_rng(self._seed, self._source, ref.epoch, ref.number)

    def _report(self, ref: RecordRef, error: BrokenRecord) -> Skipped:
        index = self._indexes[ref.file]
        start, end = index.byte_range(ref.record, ref.record + 1)
        is_new = (ref.file, ref.record) not in self._named
        self._named.add((ref.file, ref.record))
        line = index.line_number(ref.record) if is_new else None
        return Skipped(error.kind, error.detail, index.url, start, end - start, line, is_new)


def start_worker(_: int) -> None:
    """What a loader process does first.

    It leaves stopping to the training process: a signal to the whole group (Ctrl-C, a pod's end) must not take the
    data away while the training process still saves. It ends when that process is gone, however it went: torch looks at
    the process that started this one, which is the forkserver, and the forkserver lives as long as its children.
    """
    threading.Thread(target=_end_with_training, daemon=True).start()
    _keep_memory()
    torch.set_num_threads(1)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _keep_memory() -> None:
    """Have glibc keep the memory of runs of records for the next: the kernel clears each page that it gives anew."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_ARENA_MAX, 1)  # reads happen in threads, which would have memory of their own
        library.mallopt(_MMAP_THRESHOLD, 32 << 20)  # the most that is allowed
        library.mallopt(_TRIM_THRESHOLD, 1 << 30)


def _end_with_training() -> None:
    training = multiprocessing.parent_process()
    if training is not None:
        multiprocessing.connection.wait([training.sentinel])
        os._exit(1)
