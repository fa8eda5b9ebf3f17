"""NLVR2 and MaRVL: sentences about two images, in three file formats."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cclm.data.annotations.annotation_sets import ImageRef, PairEntry, PairSet
from cclm.data.annotations.source import Record, join, read_lines, read_list, shown, starts_with_list
from cclm.errors import UserError

_LABELS: dict[bool | str, int] = {True: 1, False: 0, "True": 1, "False": 0, "true": 1, "false": 0}


@dataclass(frozen=True, kw_only=True)
class PairImageRoots:
    """The folders of images, one for each data set."""

    nlvr2: str
    marvl: str
    marvl_few_shot: str


def read_pairs(paths: Sequence[str], roots: PairImageRoots) -> PairSet:
    """The sentences of all files as one set. A file has one of three forms:

    - a list of `{"sentence", "label", "images": [left, right]}` (X-VLM's NLVR2, prepared MaRVL): paths that
      contain `marvl` are used as they are, others are under the NLVR2 root;
    - NLVR2's lines: the images follow from `identifier` and, in training, `directory`;
    - MaRVL's lines: the images follow from `language`, `concept`, `left_img` and `right_img`. Few-shot lines have the
      concept inside the names of the images.

    Images are not opened.

    Raises:
        UserError: with the file and the entry or line.
    """
    entries = [_entry(record, roots) for path in paths for record in _records(path)]
    return PairSet(files=tuple(paths), entries=entries)


def _records(path: str) -> Iterator[Record]:
    yield from read_list(path) if starts_with_list(path) else read_lines(path)


def _entry(record: Record, roots: PairImageRoots) -> PairEntry:
    fields = record.fields
    if "left_img" in fields:
        images, sentence = _marvl_images(record, roots), "caption"
    elif "identifier" in fields:
        images, sentence = _nlvr2_images(record, roots.nlvr2), "sentence"
    else:
        images, sentence = _listed_images(record, roots.nlvr2), "sentence"
    label = fields.get("label")
    if not isinstance(label, bool | str) or label not in _LABELS:
        raise UserError(f"{record.place}: label has to be true or false, but it is {shown(label)}")
    left, right = (ImageRef(image) for image in images)
    return PairEntry(left, right, record.caption(sentence), _LABELS[label], record.place)


def _listed_images(record: Record, root: str) -> list[str]:
    images = record.texts("images")
    if len(images) != 2:
        raise UserError(f"{record.place}: images has to name a left and a right one, but it names {len(images)}")
    return [image if "marvl" in image else join(root, image) for image in images]


def _nlvr2_images(record: Record, root: str) -> list[str]:
    """`dev-850-0-1` is about `dev/dev-850-0-img0.png` and `...-img1.png`; training images are in numbered folders."""
    identifier = record.text("identifier")
    parts = identifier.split("-")
    if len(parts) != 4:
        raise UserError(f"{record.place}: identifier is {identifier!r}, but like dev-850-0-0 is expected")
    folder = parts[0]
    if folder == "train":
        folder = posixpath.join("images", "train", record.name("directory"))
    return [posixpath.join(root, folder, f"{'-'.join(parts[:3])}-img{side}.png") for side in (0, 1)]


def _marvl_images(record: Record, roots: PairImageRoots) -> list[str]:
    language, concept = record.text("language"), record.text("concept")
    paths = []
    for name in (record.text("left_img"), record.text("right_img")):
        if "/" in name:
            paths.append(posixpath.join(roots.marvl_few_shot, language, "all", posixpath.basename(name)))
        else:
            paths.append(posixpath.join(roots.marvl, language, "images", concept, name))
    return paths
