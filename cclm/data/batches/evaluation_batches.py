"""The batches of images that evaluation encodes, in order, decoded ahead of their use.

Dimension letters as in `batch.py`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from cclm.data.annotations.annotation_sets import ImageRef
from cclm.data.examples.images import Pixels, evaluation_image
from cclm.data.stored.records import BrokenRecord
from cclm.errors import UserError


def evaluation_images(images: Sequence[ImageRef], side: int, batch_size: int) -> Iterator[Tensor]:
    """Batches of at most `batch_size` images in the order of `images`: (N, R, R, 3) uint8, R = `side` px.

    The whole image is squeezed to a square.

    Raises:
        UserError: an image is missing or broken.
    """
    groups = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    yield from evaluation_image_groups(groups, side)


def evaluation_image_groups(groups: Sequence[Sequence[ImageRef]], side: int) -> Iterator[Tensor]:
    """One batch (N, R, R, 3) for each group, as `evaluation_images`. Threads decode ahead of the consumer."""
    if not groups:
        return
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        waiting: deque[list[Future[Pixels]]] = deque()
        for group in groups:
            waiting.append([pool.submit(_load_image, image, side) for image in group])
            if len(waiting) > 2:
                yield _stack(waiting.popleft())
        while waiting:
            yield _stack(waiting.popleft())


def _load_image(image: ImageRef, side: int) -> Pixels:
    try:
        return evaluation_image(image.read(), side)
    except BrokenRecord as error:
        raise UserError(f"{image.place}{image.describe_unreadable(error.detail)}") from None


def _stack(futures: list[Future[Pixels]]) -> Tensor:
    return torch.from_numpy(np.stack([future.result() for future in futures]))
