"""Entries of classification, two-image and answering sets, as evaluation asks them: images and one text.

Entries about the same images go together, whatever their language, so that images are encoded once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cclm.data.annotations.types import ClassificationSet, ImageRef, PairSet, QuestionSet
from cclm.data.cleaning import EmptyTextError, clean_caption, clean_question
from cclm.data.examples.tokenizer import Tokenizer
from cclm.errors import UserError

EntrySet = ClassificationSet | PairSet | QuestionSet


@dataclass(frozen=True, slots=True)
class TextRules:
    """How texts are cleaned and cut."""

    max_words: int
    max_tokens: int
    questions: bool
    """Questions have rules of their own, and may be empty."""

    def ids(self, text: str, tokenizer: Tokenizer, place: str) -> list[int]:
        """`<s> ... </s>`. Raises UserError, naming `place`, where nothing is left of a sentence."""
        if self.questions:
            cleaned = clean_question(text, self.max_words)
            try:
                return tokenizer.ids(cleaned, self.max_tokens)
            except EmptyTextError:
                return [tokenizer.bos, tokenizer.eos]
        try:
            return tokenizer.ids(clean_caption(text, self.max_words), self.max_tokens)
        except EmptyTextError as error:
            raise UserError(f"{place}: {text[:40]!r}: {error}; remove the entry from the file") from None


@dataclass(frozen=True, slots=True)
class Asked:
    """One entry of one of several sets."""

    set_name: str
    entry: int
    text: str
    place: str


@dataclass(frozen=True)
class Group:
    """Entries that are asked together, and their images, each once."""

    images: tuple[ImageRef, ...]
    asked: tuple[Asked, ...]
    rows: tuple[tuple[int, ...], ...]
    """For each entry the places in `images` of what it is about: one, or left and right."""


def images_of(dataset: EntrySet, entry: int) -> tuple[ImageRef, ...]:
    """The image of an entry, or left and right."""
    if isinstance(dataset, PairSet):
        return dataset.entries[entry].left, dataset.entries[entry].right
    return (dataset.entries[entry].image,)


def text_of(dataset: EntrySet, entry: int) -> str:
    if isinstance(dataset, QuestionSet):
        return dataset.entries[entry].question
    return dataset.entries[entry].text


def groups_of(sets: Mapping[str, EntrySet], batch_size: int) -> list[Group]:
    """All entries of all sets, in groups about at most `batch_size` images (or pairs), by first appearance.

    The groups depend on the sets and `batch_size` alone, so their results do not depend on who computes them.
    """
    by_images: dict[tuple[ImageRef, ...], list[Asked]] = {}
    for name, dataset in sets.items():
        for entry in range(len(dataset)):
            asked = Asked(name, entry, text_of(dataset, entry), dataset.entries[entry].place)
            by_images.setdefault(images_of(dataset, entry), []).append(asked)
    about = list(by_images)
    return [
        _group({images: by_images[images] for images in about[start : start + batch_size]})
        for start in range(0, len(about), batch_size)
    ]


def _group(by_images: Mapping[tuple[ImageRef, ...], list[Asked]]) -> Group:
    place: dict[ImageRef, int] = {}
    for images in by_images:
        for image in images:
            place.setdefault(image, len(place))
    asked = [(each, tuple(place[image] for image in images)) for images, texts in by_images.items() for each in texts]
    return Group(tuple(place), tuple(each for each, _ in asked), tuple(rows for _, rows in asked))
