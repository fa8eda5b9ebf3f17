"""How much this process trains a second, and what its time goes to."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator
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

    Args:
        count_flops: floating-point operations that a step with a batch asks for; None: they are not counted.
        communication_seconds: time that this process has spent in collectives so far; None where it cannot be told.
        computes_padding: whether steps compute the padding of texts, too.
    """

    def __init__(
        self,
        count_flops: Callable[[Any], float] | None = None,
        communication_seconds: Callable[[], float | None] = lambda: None,
        computes_padding: bool = True,
    ) -> None:
        self._count_flops, self._computes_padding = count_flops, computes_padding
        self._communication_seconds = communication_seconds
        self._last_communication = communication_seconds()
        self.images: Counter[str] = Counter()
        """By kind of batch, since the process began to train; so are all the following."""
        self.texts: Counter[str] = Counter()
        self.steps = 0
        """Outer steps; the loop counts them."""
        self.real_tokens = 0
        """Tokens of all texts that were encoded, masked copies included."""
        self.computed_tokens = 0
        """The same with the padding, where that is computed."""
        self.flops = 0.0
        """Floating-point operations of the steps, as counted by `count_flops`."""
        self.seconds_by_part: dict[str, float] = {}
        """Time of steps by part, by the clock of this process. A GPU runs behind: there `compute` is the time to hand
        the work over, and the part that waits for the GPU shows its time. Where communication can be told apart, it is
        a part of its own."""
        self._last_lap = time.perf_counter()
        self.restart()

    def restart(self) -> None:
        """Start a new interval; the time until now, such as that of an evaluation, does not count."""
        self._before = ThroughputCount(self.images.total(), self.texts.total(), self.steps, self.flops, 0.0)
        self._since = time.perf_counter()

    def add(self, kind: str, batch: Any) -> None:
        """Count a batch, whose tensors are still on the CPU."""
        size = images_and_texts(batch)
        self.images[kind] += size.images
        self.texts[kind] += size.texts
        for sequences in texts_of(batch):
            padded = sequences.data.shape[0] * sequences.data.shape[1]
            real = padded if sequences.lengths is None else int(sequences.lengths.sum())
            self.real_tokens += real
            self.computed_tokens += padded if self._computes_padding else real
        if self._count_flops is not None:
            self.flops += self._count_flops(batch)

    def lap(self, part: str) -> None:
        """The time since the last lap went to `part` of a step."""
        now = time.perf_counter()
        elapsed, self._last_lap = now - self._last_lap, now
        communication = self._communication_seconds()
        if communication is not None:
            communicated = communication - (self._last_communication or 0.0)
            self._last_communication = communication
            elapsed -= communicated
            self._add_seconds("communication", communicated)
        self._add_seconds(part, elapsed)

    def _add_seconds(self, part: str, seconds: float) -> None:
        self.seconds_by_part[part] = self.seconds_by_part.get(part, 0.0) + seconds

    def take(self) -> ThroughputCount:
        """What was trained since the last call or `restart`. Call it after waiting for the device."""
        before = self._before
        taken = ThroughputCount(
            images=self.images.total() - before.images,
            texts=self.texts.total() - before.texts,
            steps=self.steps - before.steps,
            flops=self.flops - before.flops,
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
    flops: float
    """Floating-point operations."""
    seconds: float
