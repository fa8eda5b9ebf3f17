"""Config -> the batches of one source for this process.

Loader processes own parts of the rank's slots for the whole run and hand over, for each batch, the examples of their
slots; the training process puts them together. So every run of records is read by one process only, and the order
does not depend on the number of processes.
"""

from __future__ import annotations

import logging
import multiprocessing
import random
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

import torch
from torch.utils.data import DataLoader

from cclm.config.pretrain import PretrainConfig
from cclm.data.batches.batch import PretrainBatch
from cclm.data.batches.collate import collate_of
from cclm.data.batches.shared_images import PREFETCH, SharedImages
from cclm.data.batches.workers import Part, PartStream, start_worker
from cclm.data.examples.pretraining_examples import SOURCES
from cclm.data.examples.tokenizer import load_tokenizer
from cclm.data.stored.audit import EpochCount, Tally, add_tally, digest_of_files
from cclm.data.stored.index import open_indexes
from cclm.data.stored.order import Order, slots_of_rank
from cclm.data.stored.quarantine import Quarantine, ReadCount, Skipped, refuse_too_many
from cclm.errors import UserError
from cclm.storage import StoreUnavailable

log = logging.getLogger(__name__)


class SourceStream:
    """The batches of one source, as this rank sees them. Build with `open_source`."""

    def __init__(
        self, kind: str, config: PretrainConfig, rank: int, world_size: int, quarantine: Quarantine | None
    ) -> None:
        source = getattr(config.data, kind)
        self._kind, self._config = kind, config
        self._indexes = open_indexes(f"data.{kind}.files", source.files, config.data.index_dir)
        # A slot is a record: an image with its text, or a region image with all of its texts.
        slots_key = "max_images" if kind == "regions" else "batch_size"
        num_slots = getattr(source, slots_key)
        self._slots = slots_of_rank(f"data.{kind}.{slots_key}", num_slots, rank, world_size)
        texts = len(slots_of_rank(f"data.{kind}.batch_size", source.batch_size, rank, world_size))
        self._order = Order(
            [index.num_records for index in self._indexes],
            [index.num_bytes for index in self._indexes],
            num_slots,
            config.seed,
            SOURCES.index(kind),
        )
        self._collate = collate_of(kind, texts, load_tokenizer(config.model.text.tokenizer).pad)
        self._num_workers = min(source.num_workers, len(self._slots))
        self._quarantine = quarantine
        self._tally: Tally = {}
        self._named: set[tuple[str, int]] = set()

    @property
    def num_records(self) -> int:
        """Records of the source, over all processes (images, for regions)."""
        return self._order.num_records

    @property
    def layout(self) -> str:
        """Equal for files that are cut into records alike, wherever they are: the order of the records is the same."""
        return self._order.layout

    @property
    def data_digest(self) -> str:
        """Equal for files of as many records and bytes, in this order, wherever they are."""
        return digest_of_files((index.num_records, index.num_bytes) for index in self._indexes)

    @property
    def tally(self) -> Tally:
        """The records of the batches handed over so far on this rank, by epoch."""
        return self._tally

    @property
    def read(self) -> int:
        """Records of those batches, broken ones included."""
        return self._total().read

    @property
    def skipped(self) -> dict[str, int]:
        """Broken ones among them, by kind."""
        return dict(self._total().skipped)

    def _total(self) -> EpochCount:
        total = EpochCount()
        for count in self._tally.values():
            total.add(count)
        return total

    def refuse_too_many_broken(self, now: ReadCount, before: ReadCount) -> None:
        """Raises UserError when more of a run's records are broken than the config allows: see `refuse_too_many`."""
        refuse_too_many(f"data.{self._kind}", now, before, self._config.data.broken)

    def batches(self, start: int = 0) -> Generator[PretrainBatch, None, None]:
        """This rank's part of the batches `start`, `start` + 1, ... of the source, without end.

        CPU tensors, pinned if CUDA is there. Closing the generator ends the loader processes.

        Raises UserError when too many records in a row are broken, a file changes while it is read, or shared memory is
        too small, and StoreUnavailable when a store is away for longer than its patience.
        """
        shared = self._shared_images()
        parts = PartStream(self._kind, self._config, self._indexes, self._order, self._slots, start, shared)
        stream = iter(parts) if self._num_workers == 0 else iter(self._loader(parts))
        per_batch = max(1, self._num_workers)
        batch = start
        try:
            while True:
                yield self._assemble([next(stream) for _ in range(per_batch)], shared, batch)
                batch += 1
        finally:
            # A traceback would keep the iterator alive, and Python waits for its processes at exit.
            del stream

    def _shared_images(self) -> SharedImages | None:
        """Where loader processes put images, if there are any of both."""
        if not self._num_workers or self._kind == "texts":
            return None
        most = -(-len(self._slots) // self._num_workers)
        try:
            return SharedImages(self._num_workers, most, self._config.model.vision.image_size)
        except UserError as error:
            raise UserError(f"data.{self._kind}: {error}") from error

    def _assemble(self, parts: list[Part], shared: SharedImages | None, batch: int) -> PretrainBatch:
        for part in parts:
            if part.error is not None:
                raise StoreUnavailable(part.error) if part.is_outage else UserError(part.error)
            add_tally(self._tally, part.tally)
            for skipped in part.skipped:
                self._name(skipped)
        pin = torch.cuda.is_available()
        if shared is not None:
            images = shared.take([part.images for part in parts], pin)
        else:
            images = parts[0].images  # texts have none, and without loader processes there is one part
        examples = [example for part in parts for example in part.examples]
        rng = random.Random(f"{self._config.seed} {self._kind} {batch} {self._slots.start}")
        collated = self._collate(images, examples, rng)
        return collated.pin_memory() if pin else collated

    def _name(self, skipped: Skipped) -> None:
        """Tell of a broken record, once."""
        key = skipped.path, skipped.offset
        if not skipped.is_new or key in self._named:
            return
        self._named.add(key)
        text = "skipped a record of data.%s at %s: %s: %s"
        log.warning(text, self._kind, skipped.place, skipped.kind, skipped.detail)
        if self._quarantine is not None:
            self._quarantine.add(self._kind, skipped)

    def _loader(self, parts: PartStream) -> DataLoader:
        return DataLoader(
            parts,
            batch_size=None,
            num_workers=self._num_workers,
            multiprocessing_context=loader_context(),
            worker_init_fn=start_worker,
            prefetch_factor=PREFETCH,
            generator=torch.Generator(),  # else starting the loader draws from the global random state
        )


def open_source(
    kind: str, config: PretrainConfig, *, rank: int, world_size: int, quarantine: Quarantine | None = None
) -> SourceStream:
    """Source `kind` (an attribute of `DataConfig`) for one of `world_size` processes.

    Broken records are listed in `quarantine`, if given.

    Raises UserError for missing data, a missing tokenizer, or batch sizes that the processes cannot share evenly.
    """
    if kind not in SOURCES:
        raise ValueError(f"unknown source {kind!r}, not one of {', '.join(SOURCES)}")
    if getattr(config.data, kind) is None:
        raise UserError(f"the config has no data.{kind}; add that block or do not train on it")
    try:
        return SourceStream(kind, config, rank, world_size, quarantine)
    except (UserError, StoreUnavailable):
        raise
    except OSError as error:  # what a store or a disk refuses, or a file that changes while it is indexed
        raise UserError(f"data.{kind}.files: {error}") from error


def loader_context() -> BaseContext:
    """How loader processes are started; ready when this returns."""
    # forkserver: a fork of the training process would copy its threads' locks (OpenMP, gRPC, tokenizers) and CUDA.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cclm.data.batches.workers", "transformers"])
    with _ignoring_sigterm():
        forkserver.ensure_running()
    return context


@contextmanager
def _ignoring_sigterm() -> Iterator[None]:
    """Processes started meanwhile ignore SIGTERM from birth on (dispositions pass through exec).

    The forkserver must outlive a SIGTERM to the process group: without it the loader processes look dead.
    """
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before is None:  # None: not set from Python
        yield
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
