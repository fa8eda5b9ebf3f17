"""The batches that evaluation encodes: images and texts in order, decoded ahead of their use.

Dimension letters as in `batch.py`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cclm.data.annotations.types import ImageRef
from cclm.data.images import evaluation_image
from cclm.data.records import BrokenRecord
from cclm.data.text import EmptyTextError, Tokenizer, clean_caption
from cclm.errors import UserError
from cclm.sequences import Sequences


def evaluation_images(images: Sequence[ImageRef], side: int, batch_size: int) -> Iterator[Tensor]:
    """Batches of at most `batch_size` images in the order of `images`: (N, 3, R, R) float32, squeezed to R.

    Decoding runs ahead in threads. Raises UserError for an image that is missing or broken.
    """
    if not images:
        return
    groups = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        waiting: deque[list[Any]] = deque()
        for group in groups:
            waiting.append([pool.submit(_load_image, image, side) for image in group])
            if len(waiting) > 2:
                yield _stack(waiting.popleft())
        while waiting:
            yield _stack(waiting.popleft())


def evaluation_texts(
    texts: Sequence[str], tokenizer: Tokenizer, max_words: int, max_tokens: int, batch_size: int
) -> Iterator[Sequences]:
    """Batches of at most `batch_size` cleaned captions in the order of `texts`: (B, L) token ids.

    Raises UserError for a caption of which cleaning leaves nothing.
    """
    for start in range(0, len(texts), batch_size):
        ids = [
            _caption_ids(text, start + i, tokenizer, max_words, max_tokens)
            for i, text in enumerate(texts[start : start + batch_size])
        ]
        yield Sequences.from_lists(ids, tokenizer.pad)


def _caption_ids(text: str, number: int, tokenizer: Tokenizer, max_words: int, max_tokens: int) -> list[int]:
    try:
        return tokenizer.ids(clean_caption(text, max_words), max_tokens)
    except EmptyTextError as error:
        raise UserError(f"evaluation caption {number} ({text[:40]!r}): {error}; remove it from the list") from None


def _load_image(image: ImageRef, side: int) -> np.ndarray:
    try:
        return evaluation_image(image.read(), side)
    except BrokenRecord as error:
        raise UserError(f"the image {image.url} cannot be read: {error.detail}") from None


def _stack(futures: list[Any]) -> Tensor:
    return torch.from_numpy(np.stack([future.result() for future in futures]))
