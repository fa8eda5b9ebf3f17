"""Config -> the batches of one source for this process.

Each loader process owns some of the rank's slots for the whole run. For each batch it hands over the examples of its
slots, a `PartialBatch`, and the training process puts these together. So every run of neighbouring records is read by
one process only, and the order does not depend on the number of processes.
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
from torch import Tensor
from torch.utils.data import DataLoader

from cclm.config.pretrain import PretrainConfig
from cclm.data.batches.batch import PretrainBatch
from cclm.data.batches.collate import collate_function
from cclm.data.batches.shared_images import PREFETCH, SharedImages, SharedImagesRef
from cclm.data.batches.workers import PartialBatch, PartialBatchDataset, start_worker
from cclm.data.examples.pretraining_examples import SOURCES
from cclm.data.examples.tokenizer import load_tokenizer
from cclm.data.stored.audit import EpochCount, FileExtent, Tally, add_tally, digest_of_files
from cclm.data.stored.index import open_indexes
from cclm.data.stored.order import SampleOrder, slots_of_rank
from cclm.data.stored.quarantine import Quarantine, ReadCount, Skipped, refuse_too_many
from cclm.errors import UserError
from cclm.events import RecordSkipped
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
        self._order = SampleOrder(
            [index.num_records for index in self._indexes],
            [index.num_bytes for index in self._indexes],
            num_slots,
            config.seed,
            SOURCES.index(kind),
        )
        self._collate = collate_function(kind, texts, load_tokenizer(config.model.text.tokenizer).pad)
        self._num_workers = min(source.num_workers, len(self._slots))
        self._quarantine = quarantine
        self._tally: Tally = {}
        self._reported: set[tuple[str, int]] = set()

    @property
    def num_records(self) -> int:
        """Records of the source, over all processes (images, for regions)."""
        return self._order.num_records

    @property
    def layout(self) -> str:
        """A checksum of how the files are cut into records, wherever they are. Equal layouts mean equal orders."""
        return self._order.layout

    @property
    def data_digest(self) -> str:
        """A digest of the number of records and bytes of each file, in this order, wherever the files are."""
        return digest_of_files(FileExtent(index.num_records, index.num_bytes) for index in self._indexes)

    @property
    def tally(self) -> Tally:
        """The records of the batches handed over so far on this rank, by epoch."""
        return self._tally

    @property
    def read(self) -> int:
        """Records of the batches handed over so far on this rank, broken ones included."""
        return self._total().read

    @property
    def skipped(self) -> dict[str, int]:
        """Broken records among those, by kind."""
        return dict(self._total().skipped)

    def _total(self) -> EpochCount:
        total = EpochCount()
        for count in self._tally.values():
            total.add(count)
        return total

    def refuse_too_many_broken(self, now: ReadCount, before: ReadCount) -> None:
        """Raises UserError if more of the source's records are broken than the config allows: `refuse_too_many`."""
        refuse_too_many(f"data.{self._kind}", now, before, self._config.data.broken)

    def batches(self, start: int = 0) -> Generator[PretrainBatch, None, None]:
        """This rank's part of the batches `start`, `start` + 1, ... of the source, without end.

        CPU tensors, pinned if CUDA is there. Closing the generator ends the loader processes.

        Raises:
            UserError: too many records in a row are broken, a file changes while it is read, or shared memory is too
                small.
            StoreUnavailable: a store is unavailable for longer than its patience.
        """
        shared = self._shared_images()
        dataset = PartialBatchDataset(self._kind, self._config, self._indexes, self._order, self._slots, start, shared)
        stream: Iterator[PartialBatch] = iter(dataset if self._num_workers == 0 else self._loader(dataset))
        per_batch = max(1, self._num_workers)
        batch = start
        try:
            while True:
                yield self._assemble([next(stream) for _ in range(per_batch)], shared, batch)
                batch += 1
        finally:
            # A traceback would keep the iterator, and so its processes, alive, and Python waits for them at exit.
            del stream

    def _shared_images(self) -> SharedImages | None:
        """Where loader processes put images; None without loader processes, and for text."""
        if not self._num_workers or self._kind == "texts":
            return None
        most = -(-len(self._slots) // self._num_workers)
        try:
            return SharedImages(self._num_workers, most, self._config.model.vision.image_size)
        except UserError as error:
            raise UserError(f"data.{self._kind}: {error}") from error

    def _assemble(self, parts: list[PartialBatch], shared: SharedImages | None, batch: int) -> PretrainBatch:
        for part in parts:
            if part.error is not None:
                raise StoreUnavailable(part.error) if part.is_outage else UserError(part.error)
            add_tally(self._tally, part.tally)
            for skipped in part.skipped:
                self._report(skipped)
        pin = torch.cuda.is_available()
        images = _images_of(parts, shared, pin)
        examples = [example for part in parts for example in part.examples]
        rng = random.Random(f"{self._config.seed} {self._kind} {batch} {self._slots.start}")
        collated = self._collate(images, examples, rng)
        return collated.pin_memory() if pin else collated

    def _report(self, skipped: Skipped) -> None:
        """Log a broken record, and put it in quarantine; only the first time that it is met."""
        key = skipped.path, skipped.offset
        if not skipped.is_new or key in self._reported:
            return
        self._reported.add(key)
        text = f"skipped a record of data.{self._kind} at {skipped.place}: {skipped.kind}: {skipped.detail}"
        # No argument for %: a detail may hold that character, and logging formats only where there are arguments.
        log.warning(text, extra={"event": RecordSkipped(text, self._kind, skipped.kind)})
        if self._quarantine is not None:
            self._quarantine.add(self._kind, skipped)

    def _loader(self, dataset: PartialBatchDataset) -> DataLoader[PartialBatch]:
        return DataLoader(
            dataset,
            batch_size=None,
            num_workers=self._num_workers,
            multiprocessing_context=loader_context(),
            worker_init_fn=start_worker,
            prefetch_factor=PREFETCH,
            generator=torch.Generator(),  # without it, starting the loader draws from the global random state
        )


def _images_of(parts: list[PartialBatch], shared: SharedImages | None, pin: bool) -> Tensor | None:
    """The images of all parts, (N, R, R, 3) uint8; None for text."""
    if shared is not None:
        return shared.take([part.images for part in parts if isinstance(part.images, SharedImagesRef)], pin)
    images = parts[0].images  # without loader processes there is one part; with them, these are parts of text
    return images if isinstance(images, Tensor) else None


def open_source(
    kind: str, config: PretrainConfig, *, rank: int, world_size: int, quarantine: Quarantine | None = None
) -> SourceStream:
    """Source `kind` (an attribute of `DataConfig`) for one of `world_size` processes.

    Args:
        quarantine: lists the broken records that this process meets; None keeps no list.

    Raises:
        UserError: data or the tokenizer are missing, or the processes cannot share the batch sizes evenly.
        StoreUnavailable: a store is unavailable for longer than its patience.
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
    """How loader processes are started. The forkserver runs when this returns.

    A fork of the training process would copy CUDA's state and the locks of its threads (OpenMP, gRPC, tokenizers), held
    or not. The forkserver has none of these.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cclm.data.batches.workers"])
    with _ignoring_sigterm():
        forkserver.ensure_running()
    return context


def hurry_loader_processes() -> None:
    """Let the loader processes wait for stores that are away only for seconds from now on.

    A signal handler may call it.
    """
    for process in multiprocessing.active_children():
        process.terminate()  # sends SIGTERM, which does not end them: `start_worker`


@contextmanager
def _ignoring_sigterm() -> Iterator[None]:
    """Processes started within ignore SIGTERM from their first moment on: what is ignored stays ignored through exec.

    The forkserver must outlive a SIGTERM to the process group. Without it the loader processes would look dead.
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
