"""How much a run trains a second."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Any

from torch import Tensor

from cclm.sequences import Sequences


def images_and_texts(batch: Any) -> tuple[int, int]:
    """Images, and texts the model is asked about, in a batch of `cclm.data.batches.batch` (this process's part).

    Read from shapes alone: the device is not asked. Translations count as one text with their source.
    """
    images = texts = 0
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor) and value.ndim == 4:  # (N, R, R, 3)
            images += value.shape[0]
        elif isinstance(value, Sequences):
            texts = max(texts, len(value))
    return images, texts


class Throughput:
    """Images and texts of this process since the last look, and the seconds that took."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._images = self._texts = 0
        self._since = time.perf_counter()

    def add(self, batch: Any) -> None:
        images, texts = images_and_texts(batch)
        self._images += images
        self._texts += texts

    def take(self) -> dict[str, float]:
        """{"images", "texts", "seconds"} since the last call. Take it after waiting for the device."""
        taken = {"images": self._images, "texts": self._texts, "seconds": time.perf_counter() - self._since}
        self.restart()
        return taken
