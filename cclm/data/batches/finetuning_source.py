"""The endless batches of a training set for one process, from any position.

The order is that of `cclm/data/stored/order.py`, with single examples instead of chunks of records. Each epoch is a
permutation, drawn from (seed, epoch) and cut into one slice for each slot of the global batch. So the order depends
neither on the number of processes nor on that of their workers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from cclm.data.annotations.annotation_sets import AnySet, ClassificationSet, PairSet, RetrievalSet
from cclm.data.batches.finetuning_batch import FinetuneBatch
from cclm.data.batches.finetuning_collate import (
    collate_classification,
    collate_pairs,
    collate_questions,
    collate_retrieval,
)
from cclm.data.batches.loader import loader_context
from cclm.data.batches.workers import start_worker
from cclm.data.examples.finetuning_examples import (
    ClassificationExamples,
    ExampleSet,
    PairExamples,
    Preprocessor,
    QuestionExamples,
    RetrievalExamples,
)
from cclm.data.examples.pretraining_examples import example_rng
from cclm.data.stored.order import CHUNK_BYTES, SampleOrder, slots_of_rank
from cclm.errors import UserError

_STREAM = 64  # a random stream of its own; pre-training's sources are numbered from 0

E = TypeVar("E")
E_contra = TypeVar("E_contra", contravariant=True)
T = TypeVar("T")


class CollateTexts(Protocol[E_contra]):
    """A function of `finetuning_collate.py`."""

    def __call__(self, examples: Sequence[E_contra], pad_id: int) -> FinetuneBatch: ...


class FinetuneSource:
    """The batches of one training set, as this rank sees them.

    Args:
        examples: the whole training set.
        collate: puts a list of its examples together; must be picklable if there are workers.
        batch_size: examples of a global batch.
        num_workers: loader processes of this rank; 0 makes the batches in this process.

    Raises:
        UserError: `batch_size` cannot be shared evenly by the processes.
    """

    def __init__(
        self,
        examples: ExampleSet[E],
        collate: Callable[[list[E]], FinetuneBatch],
        batch_size: int,
        *,
        seed: int,
        num_workers: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.num_records = len(examples)
        self._dataset: Dataset[FinetuneBatch | str] = _BatchDataset(examples, collate, seed)
        self._num_workers = num_workers
        self._slots = slots_of_rank("training.batch_size", batch_size, rank, world_size)
        sizes = [self.num_records * CHUNK_BYTES]  # as if each example filled a chunk: single examples are shuffled
        self._order = SampleOrder([self.num_records], sizes, batch_size, seed, _STREAM)
        self.skipped: dict[str, int] = {}
        """Always empty: an example that cannot be read ends the run, or was left out before the run."""
        self.read = 0
        """Examples of this rank so far."""

    def batches(self, start: int = 0) -> Generator[FinetuneBatch, None, None]:
        """This rank's part of the batches `start`, `start` + 1, ...: CPU tensors, pinned if CUDA is there.

        Raises:
            UserError: an image cannot be read.
        """
        options: dict[str, Any] = {}
        if self._num_workers:
            options = {"multiprocessing_context": loader_context(), "prefetch_factor": 2}
        loader = DataLoader(
            self._dataset,
            batch_sampler=_SlotSampler(self._order, self._slots, start),
            collate_fn=_unchanged,
            num_workers=self._num_workers,
            worker_init_fn=start_worker,
            generator=torch.Generator(),  # without it, starting the loader draws from the global random state
            **options,
        )
        pin = torch.cuda.is_available()
        stream: Iterator[FinetuneBatch | str] = iter(loader)
        try:
            while True:
                batch = next(stream)
                if isinstance(batch, str):
                    raise UserError(batch)
                self.read += len(self._slots)
                yield batch.pin_memory() if pin else batch
        finally:
            del stream  # a traceback would keep the iterator, and so its processes, alive


def open_finetune_source(
    dataset: AnySet,
    preprocessor: Preprocessor,
    max_answer_tokens: int,
    batch_size: int,
    *,
    seed: int,
    num_workers: int,
    rank: int,
    world_size: int,
) -> FinetuneSource:
    """The batches of a training set of any task; arguments as in `FinetuneSource`.

    Args:
        max_answer_tokens: answers are cut to so many tokens (answering alone).

    Raises:
        UserError: `batch_size` cannot be shared evenly by the processes.
    """

    def source_of(examples: ExampleSet[E], collate: CollateTexts[E]) -> FinetuneSource:
        return FinetuneSource(
            examples,
            partial(collate, pad_id=preprocessor.tokenizer.pad),
            batch_size,
            seed=seed,
            num_workers=num_workers,
            rank=rank,
            world_size=world_size,
        )

    if isinstance(dataset, RetrievalSet):
        return source_of(RetrievalExamples(dataset, preprocessor), collate_retrieval)
    if isinstance(dataset, ClassificationSet):
        return source_of(ClassificationExamples(dataset, preprocessor), collate_classification)
    if isinstance(dataset, PairSet):
        return source_of(PairExamples(dataset, preprocessor), collate_pairs)
    return source_of(QuestionExamples(dataset, preprocessor, max_answer_tokens), collate_questions)


class _ExampleRef(NamedTuple):
    """One example at one place of the order."""

    epoch: int
    number: int
    """Number of the example in its set."""


class _SlotSampler(Sampler[list[_ExampleRef]]):
    """The examples of this rank's slots, batch by batch from `start` on, without end."""

    def __init__(self, order: SampleOrder, slots: range, start: int) -> None:
        self._order, self._slots, self._start = order, slots, start

    def __iter__(self) -> Iterator[list[_ExampleRef]]:
        batch = self._start
        while True:
            yield [_ExampleRef(ref.epoch, ref.number) for ref in self._order.records_of(batch, self._slots)]
            batch += 1


class _BatchDataset(Dataset[FinetuneBatch | str], Generic[E]):
    """Makes a whole batch at a time. In place of a batch that cannot be made it gives the sentence that says why."""

    def __init__(self, examples: ExampleSet[E], collate: Callable[[list[E]], FinetuneBatch], seed: int) -> None:
        self._examples, self._collate, self._seed = examples, collate, seed

    def __getitems__(self, refs: list[_ExampleRef]) -> FinetuneBatch | str:
        try:
            return self._collate([self._examples.example(ref.number, self._rng(ref)) for ref in refs])
        except UserError as error:  # an exception that crosses processes arrives as a traceback
            return str(error)

    def _rng(self, ref: _ExampleRef) -> random.Random:
        return example_rng(self._seed, _STREAM, ref.epoch, ref.number)


def _unchanged(batch: T) -> T:
    return batch
