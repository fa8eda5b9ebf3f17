"""Entries of classification, two-image and answering sets in the order in which evaluation predicts them.

Entries about the same images go together, whatever their language, so that images are encoded once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cclm.data.annotations.annotation_sets import ClassificationSet, ImageRef, PairSet, QuestionSet

EntrySet = ClassificationSet | PairSet | QuestionSet


@dataclass(frozen=True, slots=True)
class EntryText:
    """The text of one entry, and which entry of which set it is."""

    set_name: str
    entry: int
    """Number of the entry in its set, from 0."""
    text: str
    place: str
    """File and line, or entry: for messages."""


@dataclass(frozen=True)
class EntryGroup:
    """S entries that are predicted together, and their N images, each once."""

    images: tuple[ImageRef, ...]
    """N"""
    texts: tuple[EntryText, ...]
    """S"""
    rows: tuple[tuple[int, ...], ...]
    """S times the indexes into `images` of what the entry is about: one index, or left and right."""


def images_of(dataset: EntrySet, entry: int) -> tuple[ImageRef, ...]:
    """The image of an entry, or left and right."""
    if isinstance(dataset, PairSet):
        return dataset.entries[entry].left, dataset.entries[entry].right
    return (dataset.entries[entry].image,)


def text_of(dataset: EntrySet, entry: int) -> str:
    """The sentence or the question of an entry, as in the file."""
    if isinstance(dataset, QuestionSet):
        return dataset.entries[entry].question
    return dataset.entries[entry].text


def group_entries(sets: Mapping[str, EntrySet], batch_size: int) -> list[EntryGroup]:
    """All entries of all sets in groups about at most `batch_size` images (or pairs), in order of first appearance.

    The groups depend on the sets and `batch_size` alone, so results do not depend on which process computes a group.
    """
    by_images: dict[tuple[ImageRef, ...], list[EntryText]] = {}
    for name, dataset in sets.items():
        for entry in range(len(dataset)):
            text = EntryText(name, entry, text_of(dataset, entry), dataset.entries[entry].place)
            by_images.setdefault(images_of(dataset, entry), []).append(text)
    keys = list(by_images)
    return [
        _group({images: by_images[images] for images in keys[start : start + batch_size]})
        for start in range(0, len(keys), batch_size)
    ]


def _group(by_images: Mapping[tuple[ImageRef, ...], list[EntryText]]) -> EntryGroup:
    index: dict[ImageRef, int] = {}
    for images in by_images:
        for image in images:
            index.setdefault(image, len(index))
    texts, rows = [], []
    for images, of_images in by_images.items():
        texts += of_images
        rows += [tuple(index[image] for image in images)] * len(of_images)
    return EntryGroup(tuple(index), tuple(texts), tuple(rows))
