"""Retrieval lists as Multi30K and COCO have them: JSON lists of images with their captions."""

from __future__ import annotations

import json
import posixpath
from typing import Any

from cclm import storage
from cclm.data.annotations.types import ImageRef, RetrievalSet
from cclm.errors import UserError


def read_retrieval_list(path: str, image_root: str = "") -> RetrievalSet:
    """A validation or test list: `[{"image": path under image_root, "caption": text or texts, "image_id": ...}]`.

    Raises UserError that names the file and the entry. Images are not opened.
    """
    entries = _json_list(path)
    images: list[ImageRef] = []
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
        images.append(ImageRef(posixpath.join(image_root, image) if image_root else image))
        ids.append(entry.get("image_id", i))
        texts.extend(captions)
        image_of_text.extend([i] * len(captions))
    return RetrievalSet(files=(path,), images=images, image_ids=ids, texts=texts, image_of_text=image_of_text)


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
