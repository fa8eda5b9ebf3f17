"""How much this process trains a second, and what its time goes to."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from torch import Tensor

from cclm.sequences import Sequences


class BatchSize(NamedTuple):
    images: int
    texts: int


def images_and_texts(batch: Any) -> BatchSize:
    """Images, and texts the model is asked about, in a batch of `cclm.data.batches.batch` (this process's part).

    Read from shapes alone: the device is not asked. Translations count as one text with their source.
    """
    images = texts = 0
    for each in fields(batch):
        value = getattr(batch, each.name)
        if isinstance(value, Tensor) and value.ndim == 4:  # (N, R, R, 3)
            images += value.shape[0]
        elif isinstance(value, Sequences):
            texts = max(texts, len(value))
    return BatchSize(images, texts)


def texts_of(batch: Any) -> Iterator[Sequences]:
    """All texts that a step encodes: of the batch, and of the dataclasses in it, masked copies included."""
    for each in fields(batch):
        value = getattr(batch, each.name)
        if isinstance(value, Sequences):
            yield value
        elif dataclasses.is_dataclass(value):
            yield from texts_of(value)


class Throughput:
    """Counts what this process trains: since the last look, and altogether.

    The loop calls `add` with each batch, before it moves to the device, and `lap` after each part of a step.
    """

    def __init__(self) -> None:
        self.images: Counter[str] = Counter()
        """By kind of batch, since the process began to train; so are all the following."""
        self.texts: Counter[str] = Counter()
        self.steps = 0
        """Outer steps; the loop counts them."""
        self.real_tokens = 0
        """Tokens of all texts that were encoded, masked copies included."""
        self.computed_tokens = 0
        """The same with padding."""
        self.seconds_by_part: dict[str, float] = {}
        """Time of steps by part, by the clock of this process. A GPU runs behind: there `compute` is the time to hand
        the work over, and the part that waits for the GPU shows its time."""
        self._last_lap = time.perf_counter()
        self.restart()

    def restart(self) -> None:
        """Start a new interval; the time until now, such as that of an evaluation, does not count."""
        self._before = (self.images.total(), self.texts.total(), self.steps)
        self._since = time.perf_counter()

    def add(self, kind: str, batch: Any) -> None:
        """Count a batch, whose tensors are still on the CPU."""
        size = images_and_texts(batch)
        self.images[kind] += size.images
        self.texts[kind] += size.texts
        for sequences in texts_of(batch):
            computed = sequences.data.shape[0] * sequences.data.shape[1]
            self.computed_tokens += computed
            self.real_tokens += computed if sequences.lengths is None else int(sequences.lengths.sum())

    def lap(self, part: str) -> None:
        """The time since the last lap went to `part` of a step."""
        now = time.perf_counter()
        self.seconds_by_part[part] = self.seconds_by_part.get(part, 0.0) + now - self._last_lap
        self._last_lap = now

    def take(self) -> ThroughputCount:
        """What was trained since the last call or `restart`. Call it after waiting for the device."""
        images, texts, steps = self._before
        taken = ThroughputCount(
            images=self.images.total() - images,
            texts=self.texts.total() - texts,
            steps=self.steps - steps,
            seconds=time.perf_counter() - self._since,
        )
        self.restart()
        return taken


@dataclass(frozen=True)
class ThroughputCount:
    """What one process trained in some time."""

    images: int
    texts: int
    steps: int
    """Outer steps."""
    seconds: float
