"""Retrieval lists as COCO and Multi30K have them, and the batches that evaluation encodes.

I images and T texts of a set; each text belongs to one image, an image may have several texts.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cclm import storage
from cclm.data.images import evaluation_image
from cclm.data.records import BrokenRecord
from cclm.data.text import EmptyTextError, Tokenizer, clean_caption
from cclm.errors import UserError
from cclm.sequences import Sequences


@dataclass(frozen=True)
class RetrievalSet:
    """Images and the texts that describe them."""

    image_paths: list[str]
    """I paths or URLs."""
    image_ids: list[int | str]
    """I ids, as in the file; an image without one has its place in the list."""
    texts: list[str]
    """T captions, not cleaned."""
    image_of_text: list[int]
    """T places in `image_paths`."""


def read_retrieval_list(path: str, image_root: str = "") -> RetrievalSet:
    """A validation or test list: `[{"image": path under image_root, "caption": text or texts, "image_id": ...}]`.

    Raises UserError that names the file and the entry. Images are not opened.
    """
    entries = _json_list(path)
    paths: list[str] = []
    ids: list[int | str] = []
    texts: list[str] = []
    image_of_text: list[int] = []
    for i, entry in enumerate(entries):
        place = f"{path}, entry {i}"
        if not isinstance(entry, dict):
            raise UserError(f"{place}: not an object with image and caption")
        image, captions = (_field(entry, key, place) for key in ("image", "caption"))
        captions = captions if isinstance(captions, list) else [captions]
        if not isinstance(image, str) or not all(isinstance(caption, str) for caption in captions):
            raise UserError(f"{place}: image has to be a text, caption a text or a list of texts")
        if not captions:
            raise UserError(f"{place}: the image {image} has no caption; remove the entry or add one")
        paths.append(posixpath.join(image_root, image) if image_root else image)
        ids.append(entry.get("image_id", i))
        texts.extend(captions)
        image_of_text.extend([i] * len(captions))
    return RetrievalSet(paths, ids, texts, image_of_text)


def evaluation_images(paths: Sequence[str], side: int, batch_size: int) -> Iterator[Tensor]:
    """Batches of at most `batch_size` images in the order of `paths`: (N, 3, R, R) float32, whole images squeezed to R.

    Decoding runs ahead in threads. Raises UserError for an image that is missing or broken.
    """
    if not paths:
        return
    groups = [paths[i : i + batch_size] for i in range(0, len(paths), batch_size)]
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        waiting: deque[list[Any]] = deque()
        for group in groups:
            waiting.append([pool.submit(_load_image, path, side) for path in group])
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


def _load_image(path: str, side: int) -> np.ndarray:
    try:
        return evaluation_image(storage.read_bytes(path), side)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError(f"the image {path} does not exist; correct image_root or fetch the image") from None
    except BrokenRecord as error:
        raise UserError(f"the image {path} cannot be read: {error.detail}") from None


def _stack(futures: list[Any]) -> Tensor:
    return torch.from_numpy(np.stack([future.result() for future in futures]))


def _json_list(path: str) -> list[Any]:
    try:
        entries = json.loads(storage.read_bytes(path))
    except FileNotFoundError:
        raise UserError(f"the retrieval list {path} does not exist; correct the path") from None
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: a list of images with captions is expected, and at least one")
    return entries


def _field(entry: dict[str, Any], key: str, place: str) -> Any:
    if key not in entry:
        raise UserError(f"{place}: {key} is missing")
    return entry[key]
