"""WIT as IGLUE has it: lines of a caption with the URL of its image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from cclm.data.annotations.image_tables import find_images
from cclm.data.annotations.retrieval_sets import EMPTY_CAPTION, RetrievalSetBuilder
from cclm.data.annotations.source import Record, read_lines
from cclm.data.annotations.types import ImageRef, RetrievalSet
from cclm.data.cleaning import is_visible
from cclm.errors import UserError

NO_IMAGE = "no image under the URL"
_CONTENT = re.compile(rb'"image_content"\s*:\s*"([^"]*)"')


def read_wit(paths: Sequence[str], image_tables: Sequence[str], index_dir: str | None = None) -> RetrievalSet:
    """Lines of `{"image_url": ..., "caption_reference_description": ...}`, read as one.

    The image is the line's own `image_content` (base64) where it has one, else the one that `image_tables` have under
    the URL (`image_tables.find_images`); a line without either is dropped and counted, as is one without caption.
    Captions of one URL share an image. A caption that cleaning empties stays and is used as it is.

    Raises UserError that names the file and the line. Images are not opened.
    """
    dropped: Counter[str] = Counter()
    lines: list[tuple[str, str, str, ImageRef | None]] = []  # URL, caption, place, image inside the line
    for path in paths:
        for record in read_lines(path):
            caption = record.fields.get("caption_reference_description")
            if caption is None or (isinstance(caption, str) and not is_visible(caption)):
                dropped[EMPTY_CAPTION] += 1
                continue
            caption = record.text("caption_reference_description")
            lines.append((record.text("image_url"), caption, record.place, _inside(record, path)))
    urls = [url for url, _, _, inside in lines if inside is None]
    if urls and not image_tables:
        place = next(place for _, _, place, inside in lines if inside is None)
        raise UserError(f"{place}: no image_content here, and data.image_tables names no files that have the image")
    found = find_images(urls, image_tables, index_dir) if urls else {}
    built = RetrievalSetBuilder(uncleaned_if_empty=True)
    built.dropped = dropped
    slots: dict[str, int] = {}
    for url, caption, place, inside in lines:
        image = inside or found.get(url)
        if image is None:
            dropped[NO_IMAGE] += 1
            continue
        if url not in slots:
            slots[url] = built.image(image, url, place)
        built.caption(slots[url], caption, place)
    return built.finish(paths)


def _inside(record: Record, path: str) -> ImageRef | None:
    """The image that the line itself holds: the bytes of its base64 text in the file."""
    if not record.fields.get("image_content"):
        return None
    record.text("image_content")
    found = _CONTENT.search(record.line)
    if found is None:
        raise UserError(f"{record.place}: image_content is no base64 text")
    return ImageRef(path, record.start + found.start(1), record.start + found.end(1))
