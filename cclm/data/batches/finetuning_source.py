"""The endless batches of a training set for one process, from any position.

The order is that of `order.py` with single examples for chunks: a permutation an epoch, drawn from (seed, epoch), cut
into one slice for each place of the global batch. It depends neither on the number of processes nor on workers.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from cclm.data.batches.finetuning_batch import FinetuneBatch
from cclm.data.batches.finetuning_examples import Examples
from cclm.data.batches.loader import loader_context
from cclm.data.batches.workers import start_worker
from cclm.data.examples.pretraining_examples import example_rng
from cclm.data.stored.order import CHUNK_BYTES, Order, slots_of_rank
from cclm.data.stored.quarantine import ReadCount
from cclm.errors import UserError

_SOURCE = 64  # apart from the random streams of pre-training's sources


class FinetuneSource:
    """The batches of one training set, as this rank sees them."""

    def __init__(
        self, examples: Examples, batch_size: int, *, seed: int, num_workers: int, rank: int, world_size: int
    ) -> None:
        self._examples, self._seed, self._num_workers = examples, seed, num_workers
        self._slots = slots_of_rank("training.batch_size", batch_size, rank, world_size)
        number = len(examples)
        self._order = Order([number], [number * CHUNK_BYTES], batch_size, seed, _SOURCE)
        self.skipped: dict[str, int] = {}
        """Nothing is skipped here: what cannot be read ends the run, or was left out before."""
        self.read = 0
        """Examples of this rank so far."""

    @property
    def num_records(self) -> int:
        return len(self._examples)

    def batches(self, start: int = 0) -> Generator[FinetuneBatch, None, None]:
        """This rank's part of the batches `start`, `start` + 1, ...: CPU tensors, pinned if CUDA is there.

        Raises UserError for an image that cannot be read.
        """
        options: dict[str, Any] = {}
        if self._num_workers:
            options = {"multiprocessing_context": loader_context(), "prefetch_factor": 2}
        loader = DataLoader(
            _BatchDataset(self._examples, self._seed),
            batch_sampler=_Places(self._order, self._slots, start),
            collate_fn=_as_it_is,
            num_workers=self._num_workers,
            worker_init_fn=start_worker,
            generator=torch.Generator(),  # else starting the loader draws from the global random state
            **options,
        )
        pin = torch.cuda.is_available()
        stream = iter(loader)
        try:
            while True:
                batch = next(stream)
                if isinstance(batch, str):
                    raise UserError(batch)
                self.read += len(self._slots)
                yield batch.pin_memory() if pin else batch
        finally:
            del stream  # a traceback would keep its processes alive

    def refuse_too_many_broken(self, now: ReadCount, before: ReadCount) -> None:
        """See `skipped`."""


class _Places(Sampler):
    """(epoch, number of the example) of each of this rank's places, batch by batch, without end."""

    def __init__(self, order: Order, slots: range, start: int) -> None:
        self._order, self._slots, self._start = order, slots, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batch = self._start
        while True:
            yield [(ref.epoch, ref.number) for ref in self._order.records_of(batch, self._slots)]
            batch += 1


class _BatchDataset(Dataset):
    """Makes a whole batch at a time; in place of one that cannot be made, the sentence that says why."""

    def __init__(self, examples: Examples, seed: int) -> None:
        self._examples, self._seed = examples, seed

    def __getitems__(self, places: list[tuple[int, int]]) -> FinetuneBatch | str:
        try:
            made = [self._examples.example(number, self._rng(epoch, number)) for epoch, number in places]
            return self._examples.collate(made)
        except UserError as error:  # an exception that crosses processes arrives as a traceback
            return str(error)

    def _rng(self, epoch: int, number: int) -> random.Random:
        return example_rng(self._seed, _SOURCE, epoch, number)


def _as_it_is(batch: FinetuneBatch | str) -> FinetuneBatch | str:
    return batch
