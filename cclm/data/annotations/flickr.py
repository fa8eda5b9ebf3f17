"""xFlickr&CO and Flickr30k in the format of IGLUE: one image with its sentences a line, images from two data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cclm.data.annotations.annotation_sets import ImageRef, RetrievalSet
from cclm.data.annotations.retrieval_sets import EMPTY_CAPTION, NO_CAPTION, RetrievalSetBuilder
from cclm.data.annotations.source import is_blank, join, read_lines


def read_xflickrco(paths: Sequence[str], image_roots: Mapping[str, str]) -> RetrievalSet:
    """The lines of all files, `{"sentences": [...], "id": ..., "img_path": ...}`, as one set.

    A path that contains COCO is under `image_roots["coco"]`, any other under `image_roots["flickr30k"]`. The id of an
    image without one is its path. Images are not opened. An empty sentence is dropped and counted, and so is an image
    without any other sentence.

    Raises:
        UserError: with the file and the line.
    """
    builder = RetrievalSetBuilder()
    for path in paths:
        for record in read_lines(path):
            name = record.name("img_path")
            given = record.texts("sentences")
            sentences = [sentence for sentence in given if not is_blank(sentence)]
            builder.dropped[EMPTY_CAPTION] += len(given) - len(sentences)
            if not sentences:
                builder.dropped[NO_CAPTION] += 1
                continue
            root = image_roots["coco" if "COCO" in name else "flickr30k"]
            identity = name if record.fields.get("id") is None else record.name("id")
            number = builder.add_image(ImageRef(join(root, name)), identity, record.place)
            for sentence in sentences:
                builder.add_caption(number, sentence, record.place)
    builder.dropped = +builder.dropped  # without the reasons that did not occur
    return builder.finish(paths)
