"""Retrieval lists in the format of Multi30K and COCO: JSON lists of images with their captions."""

from __future__ import annotations

from collections.abc import Sequence

from cclm import storage
from cclm.data.annotations.annotation_sets import ImageRef, RetrievalSet
from cclm.data.annotations.retrieval_sets import RetrievalSetBuilder
from cclm.data.annotations.source import join, read_list, shown
from cclm.errors import UserError


def read_retrieval_list(path: str, image_root: str = "") -> RetrievalSet:
    """As `read_retrieval_lists`, for one list."""
    return read_retrieval_lists((path,), image_root)


def read_retrieval_lists(paths: Sequence[str], image_root: str = "") -> RetrievalSet:
    """The lists of `{"image": path under image_root, "caption": text or texts, "image_id": ...}` as one set.

    Training lists have one entry for each caption, other lists have one for each image. Both are read in the same way:
    entries with the same image and image id are one image. The id of an image without one is its path, so that
    captions of one picture stay together, also over several lists. Images are not opened.

    Raises:
        UserError: with the file and the entry.
    """
    builder = RetrievalSetBuilder()
    for path in paths:
        for record in read_list(path):
            image, captions = _one_spelling(record.name("image"), image_root), record.texts("caption")
            if not captions:
                raise UserError(f"{record.place}: the image {image} has no caption; remove the entry or add one")
            identity = record.fields.get("image_id")
            if identity is None:
                identity = image
            if isinstance(identity, bool) or not isinstance(identity, int | str):
                raise UserError(f"{record.place}: image_id has to be a number or a text, but it is {shown(identity)}")
            if identity == "":
                raise UserError(f"{record.place}: image_id is empty; write one, or leave image_id out")
            number = builder.add_image(ImageRef(join(image_root, image)), identity, record.place)
            for caption in captions:
                builder.add_caption(number, caption, record.place)
    return builder.finish(paths)


def _one_spelling(name: str, folder: str) -> str:
    """`./a.jpg` and `b//a.jpg` as `a.jpg` and `b/a.jpg`. In object stores they are other keys, and stay."""
    if not storage.is_local(join(folder, name)):
        return name
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "/" * name.startswith("/") + "/".join(parts)
