"""WIT in the format of IGLUE: lines of a caption with the URL of its image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from cclm.data.annotations.annotation_sets import ImageOrigin, ImageRef, RetrievalSet
from cclm.data.annotations.image_tables import find_images
from cclm.data.annotations.retrieval_sets import EMPTY_CAPTION, RetrievalSetBuilder
from cclm.data.annotations.source import Record, read_lines
from cclm.data.cleaning import is_visible
from cclm.errors import UserError

NO_IMAGE = "no image under the URL"
_CONTENT = re.compile(rb'"image_content"\s*:\s*"([^"]*)"')


class _CaptionLine(NamedTuple):
    url: str
    caption: str
    place: str
    image: ImageRef | None
    """The image inside the line itself, if there is one."""


def read_wit(paths: Sequence[str], image_tables: Sequence[str], index_dir: str | None = None) -> RetrievalSet:
    """The lines of all files, `{"image_url": ..., "caption_reference_description": ...}`, as one set.

    The image of a line is its own `image_content` (base64). A line without one gets the image that `image_tables` have
    under its URL (see `image_tables.find_images`). A line without an image is dropped and counted, and so is a line
    without a caption. Captions of the same URL share an image. A caption that would be empty after cleaning is used
    uncleaned. Images are not opened.

    Raises:
        UserError: with the file and the line.
    """
    dropped: Counter[str] = Counter()
    lines: list[_CaptionLine] = []
    for path in paths:
        for record in read_lines(path):
            caption = record.fields.get("caption_reference_description")
            if caption is None or (isinstance(caption, str) and not is_visible(caption)):
                dropped[EMPTY_CAPTION] += 1
                continue
            caption = record.text("caption_reference_description")
            lines.append(_CaptionLine(record.text("image_url"), caption, record.place, _image_inside(record, path)))
    without_image = [line for line in lines if line.image is None]
    if without_image and not image_tables:
        raise UserError(
            f"{without_image[0].place}: no image_content here, and data.image_tables names no files that have the image"
        )
    found: dict[str, ImageRef] = {}
    if without_image:
        found = find_images([line.url for line in without_image], image_tables, index_dir)
    builder = RetrievalSetBuilder(uncleaned_if_empty=True)
    builder.dropped = dropped
    numbers: dict[str, int] = {}
    for line in lines:
        image = line.image or found.get(line.url)
        if image is None:
            dropped[NO_IMAGE] += 1
            continue
        if line.url not in numbers:
            image = replace(image, origin=ImageOrigin(line.url, line.place))
            numbers[line.url] = builder.add_image(image, line.url, line.place)
        builder.add_caption(numbers[line.url], line.caption, line.place)
    return builder.finish(paths)


def _image_inside(record: Record, path: str) -> ImageRef | None:
    """The image inside the line: the byte range of its base64 text in the file. None if the line has none."""
    if not record.fields.get("image_content"):
        return None
    record.text("image_content")
    found = _CONTENT.search(record.line)
    if found is None:
        raise UserError(f"{record.place}: image_content is no base64 text")
    return ImageRef(path, record.start + found.start(1), record.start + found.end(1))
