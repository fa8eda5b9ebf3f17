"""How many images and texts a run trains in a second."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Any, NamedTuple

from torch import Tensor

from cclm.sequences import Sequences


class BatchSize(NamedTuple):
    images: int
    texts: int


class ThroughputCount(NamedTuple):
    """Images and texts of this process over some time."""

    images: int
    texts: int
    seconds: float


def images_and_texts(batch: Any) -> BatchSize:
    """Images and texts of a batch of `cclm.data.batches.batch`, in this process's part.

    They are read from shapes, so the device need not be waited for. A translation counts as one text with its source.
    """
    images = texts = 0
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor) and value.ndim == 4:  # (N, R, R, 3)
            images += value.shape[0]
        elif isinstance(value, Sequences):
            texts = max(texts, len(value))
    return BatchSize(images, texts)


class Throughput:
    """Counts the images and texts that this process trains, and the seconds that takes."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._images = self._texts = 0
        self._since = time.perf_counter()

    def add(self, batch: Any) -> None:
        size = images_and_texts(batch)
        self._images += size.images
        self._texts += size.texts

    def take(self) -> ThroughputCount:
        """What was trained since the last call. Call it after waiting for the device."""
        taken = ThroughputCount(self._images, self._texts, time.perf_counter() - self._since)
        self.restart()
        return taken
