"""The batches that evaluation encodes: texts and images in order, images decoded ahead of their use.

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

from cclm.data.annotations.types import ImageRef, RetrievalSet
from cclm.data.cleaning import EmptyTextError, clean_caption
from cclm.data.examples.images import evaluation_image
from cclm.data.examples.tokenizer import Tokenizer
from cclm.data.stored.records import BrokenRecord
from cclm.errors import UserError


def evaluation_images(images: Sequence[ImageRef], side: int, batch_size: int) -> Iterator[Tensor]:
    """Batches of at most `batch_size` images in the order of `images`: (N, R, R, 3) uint8, squeezed to R.

    Raises UserError for an image that is missing or broken.
    """
    groups = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    yield from evaluation_image_groups(groups, side)


def evaluation_image_groups(groups: Sequence[Sequence[ImageRef]], side: int) -> Iterator[Tensor]:
    """One batch (N, R, R, 3) a group, as `evaluation_images`. Decoding runs ahead in threads."""
    if not groups:
        return
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        waiting: deque[list[Any]] = deque()
        for group in groups:
            waiting.append([pool.submit(_load_image, image, side) for image in group])
            if len(waiting) > 2:
                yield _stack(waiting.popleft())
        while waiting:
            yield _stack(waiting.popleft())


def caption_ids(
    dataset: RetrievalSet, texts: Sequence[int], tokenizer: Tokenizer, max_words: int, max_tokens: int
) -> list[list[int]]:
    """Token ids of some of a set's captions, cleaned.

    Raises UserError for a caption of which cleaning leaves nothing.
    """
    return [_caption_ids(dataset, text, tokenizer, max_words, max_tokens) for text in texts]


def clean_set_caption(dataset: RetrievalSet, text: int, max_words: int) -> str:
    """Caption number `text` of a set as the model reads it.

    Raises UserError if nothing is left, unless the set uses such captions as they are.
    """
    caption = dataset.texts[text]
    try:
        return clean_caption(caption, max_words)
    except EmptyTextError as error:
        if dataset.uncleaned_if_empty:
            return caption
        raise _empty(dataset, text, error) from None


def _caption_ids(dataset: RetrievalSet, text: int, tokenizer: Tokenizer, max_words: int, max_tokens: int) -> list[int]:
    try:
        return tokenizer.ids(clean_set_caption(dataset, text, max_words), max_tokens)
    except EmptyTextError as error:
        raise _empty(dataset, text, error) from None


def _empty(dataset: RetrievalSet, text: int, error: EmptyTextError) -> UserError:
    place = dataset.image_places[dataset.image_of_text[text]]
    return UserError(f"{place}, caption {dataset.texts[text][:40]!r}: {error}; remove it from the file")


def _load_image(image: ImageRef, side: int) -> np.ndarray:
    try:
        return evaluation_image(image.read(), side)
    except BrokenRecord as error:
        raise UserError(f"the image {image.url} cannot be read: {error.detail}") from None


def _stack(futures: list[Any]) -> Tensor:
    return torch.from_numpy(np.stack([future.result() for future in futures]))
