"""Shared memory through which loader processes hand over images: a ring of buffers for each process, used again.

Fresh memory for every batch would cost more than writing to it: the kernel clears each page and maps it, once in the
loader process and once more in the training process.

Dimension letters: W loader processes, K buffers of each, n images of a partial batch, R image side in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cclm.data.examples.images import Pixels
from cclm.errors import UserError

PREFETCH = 2
"""Partial batches that a loader process may have ready or in work before the first is taken (`prefetch_factor`)."""

_BUFFERS = PREFETCH + 2  # one more for the partial batch that is being taken, and one between the two


@dataclass(frozen=True)
class SharedImagesRef:
    """Where the images of a partial batch are."""

    worker: int
    number: int
    """Number of the partial batch among those of its worker, from 0. Later ones overwrite earlier ones."""
    count: int
    """n"""


class SharedImages:
    """Buffers for the images of `workers` processes, at most `count` images of `side` px in each.

    A process to which this object is sent shares the memory; nothing is copied.

    A buffer may be written again when at most the last PREFETCH + 1 partial batches of its worker have not been taken.
    torch's DataLoader lets a worker be no further ahead than that.

    Raises:
        UserError: the system has not that much shared memory. All of it is allocated here, none later.
    """

    def __init__(self, workers: int, count: int, side: int) -> None:
        self._pixels = _shared((workers, _BUFFERS, count, side, side, 3), torch.uint8)
        self._numbers = _shared((workers, _BUFFERS), torch.int64).fill_(-1)

    @staticmethod
    def size(workers: int, count: int, side: int) -> int:
        """Bytes of shared memory that the images of such an object take."""
        return workers * _BUFFERS * count * side * side * 3

    def write(self, worker: int, number: int, images: Sequence[Pixels]) -> SharedImagesRef:
        """Store the images, n times (R, R, 3) uint8, of partial batch `number` of a worker."""
        at = worker, number % _BUFFERS
        self._numbers[at] = number
        np.stack(images, out=self._pixels[at].numpy()[: len(images)])
        return SharedImagesRef(worker, number, len(images))

    def take(self, refs: Sequence[SharedImagesRef], pin: bool) -> Tensor:
        """A copy of the images of these partial batches, (N, R, R, 3) uint8; in pinned memory if `pin`."""
        parts = [self._pixels[ref.worker, ref.number % _BUFFERS][: ref.count] for ref in refs]
        shape = (sum(map(len, parts)), *parts[0].shape[1:])
        images = torch.cat(parts, out=torch.empty(shape, dtype=torch.uint8, pin_memory=pin))  # (N, R, R, 3)
        for ref in refs:
            if int(self._numbers[ref.worker, ref.number % _BUFFERS]) != ref.number:
                raise AssertionError(f"part {ref.number} of loader process {ref.worker} was taken too late")
        return images


def _shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor in memory that processes share."""
    size = math.prod(shape) * dtype.itemsize
    try:
        # As torch's own collate function does. torch has no types for this method.
        storage: torch.UntypedStorage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rpartition(">: ")[2]
        raise UserError(
            f"no shared memory for the images of loader processes, {size / 2**20:,.0f} MiB ({reason}); mount a larger "
            "/dev/shm, or lower num_workers (0: none is needed) or the batch sizes"
        ) from error
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape, _contiguous_strides(shape))


def _contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
