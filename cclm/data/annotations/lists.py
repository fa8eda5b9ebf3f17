"""Retrieval lists as Multi30K and COCO have them: JSON lists of images with their captions."""

from __future__ import annotations

from collections.abc import Sequence

from cclm.data.annotations.retrieval_sets import RetrievalSetBuilder
from cclm.data.annotations.source import join, read_list, shown
from cclm.data.annotations.types import ImageRef, RetrievalSet
from cclm.errors import UserError


def read_retrieval_list(path: str, image_root: str = "") -> RetrievalSet:
    """One list: see `read_retrieval_lists`."""
    return read_retrieval_lists((path,), image_root)


def read_retrieval_lists(paths: Sequence[str], image_root: str = "") -> RetrievalSet:
    """Lists of `{"image": path under image_root, "caption": text or texts, "image_id": ...}`, read as one.

    Training lists have an entry for each caption, the others for each image; both are read alike. Entries of the same
    image and image id are one image. An image without id has its place in its list.

    Raises UserError that names the file and the entry. Images are not opened.
    """
    built = RetrievalSetBuilder()
    for path in paths:
        for i, record in enumerate(read_list(path)):
            image, captions = record.name("image"), record.texts("caption")
            if not captions:
                raise UserError(f"{record.place}: the image {image} has no caption; remove the entry or add one")
            identity = record.fields.get("image_id", i)
            if isinstance(identity, bool) or not isinstance(identity, int | str):
                raise UserError(f"{record.place}: image_id has to be a number or a text, but it is {shown(identity)}")
            slot = built.image(ImageRef(join(image_root, image)), identity, record.place)
            for caption in captions:
                built.caption(slot, caption, record.place)
    return built.finish(paths)
