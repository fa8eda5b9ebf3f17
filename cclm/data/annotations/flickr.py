"""xFlickr&CO and Flickr30k as IGLUE has them: lines of an image with its sentences, images from two places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cclm.data.annotations.retrieval_sets import EMPTY_CAPTION, NO_CAPTION, RetrievalSetBuilder
from cclm.data.annotations.source import is_blank, join, read_lines
from cclm.data.annotations.types import ImageRef, RetrievalSet


def read_xflickrco(paths: Sequence[str], image_roots: Mapping[str, str]) -> RetrievalSet:
    """Lines of `{"sentences": [...], "id": ..., "img_path": ...}`, read as one.

    A path that contains COCO lies under `image_roots["coco"]`, others under `image_roots["flickr30k"]`. An empty
    sentence is dropped and counted, as is an image that has no other.

    Raises UserError that names the file and the line. Images are not opened.
    """
    built = RetrievalSetBuilder()
    for path in paths:
        for record in read_lines(path):
            name = record.name("img_path")
            given = record.texts("sentences")
            sentences = [sentence for sentence in given if not is_blank(sentence)]
            built.dropped[EMPTY_CAPTION] += len(given) - len(sentences)
            if not sentences:
                built.dropped[NO_CAPTION] += 1
                continue
            root = image_roots["coco" if "COCO" in name else "flickr30k"]
            slot = built.image(ImageRef(join(root, name)), record.name("id"), record.place)
            for sentence in sentences:
                built.caption(slot, sentence, record.place)
    built.dropped = +built.dropped
    return built.finish(paths)
