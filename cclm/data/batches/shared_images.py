"""Memory through which loader processes hand over images, used over and over.

Fresh memory for every part of a batch would cost more than writing to it: the kernel clears each page and maps it, in
the loader process and again in the training process.

W loader processes, K places of each, n images of a part, R image side in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cclm.errors import UserError

PREFETCH = 2
"""Parts that a loader process may have ready or in work before the first is taken (`prefetch_factor`)."""

_PLACES = PREFETCH + 2  # with the one that is being taken, and one between them


@dataclass(frozen=True)
class Place:
    """Where the images of a part are."""

    worker: int
    number: int
    """Of the part, from 0: later parts of the worker come to lie over earlier ones."""
    count: int


class SharedImages:
    """Places for parts of `workers` processes of up to `count` images of `side` px. Sent to a process, it is shared.

    A part may be written when all but the PREFETCH + 1 before it were taken, which is how far ahead torch's DataLoader
    asks for parts.

    Raises UserError if the system has not that much shared memory: all of it is taken at once, none when it is used.
    """

    def __init__(self, workers: int, count: int, side: int) -> None:
        self._pixels = _shared((workers, _PLACES, count, side, side, 3), torch.uint8)
        self._numbers = _shared((workers, _PLACES), torch.int64).fill_(-1)

    def write(self, worker: int, number: int, images: Sequence[np.ndarray]) -> Place:
        """Images (R, R, 3) uint8 as part `number` of a worker."""
        at = worker, number % _PLACES
        self._numbers[at] = number
        np.stack(images, out=self._pixels[at].numpy()[: len(images)])
        return Place(worker, number, len(images))

    def take(self, places: Sequence[Place], pin: bool) -> Tensor:
        """The images of these parts as one tensor (N, R, R, 3), in pinned memory if asked."""
        parts = [self._pixels[place.worker, place.number % _PLACES][: place.count] for place in places]
        shape = (sum(map(len, parts)), *parts[0].shape[1:])
        images = torch.cat(parts, out=torch.empty(shape, dtype=torch.uint8, pin_memory=pin))  # (N, R, R, 3)
        for place in places:
            if int(self._numbers[place.worker, place.number % _PLACES]) != place.number:
                raise AssertionError(f"part {place.number} of loader process {place.worker} was taken too late")
        return images


def _shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory that processes share."""
    size = math.prod(shape) * dtype.itemsize
    try:
        storage = torch.UntypedStorage._new_shared(size)  # as torch's own collate function
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rpartition(">: ")[2]
        raise UserError(
            f"no shared memory for the images of loader processes, {size / 2**20:,.0f} MiB ({reason}); mount a larger "
            "/dev/shm, or lower num_workers (0: none is needed) or the batch sizes"
        ) from error
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)
