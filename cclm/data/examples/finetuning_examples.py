"""An entry of an annotation file becomes a training example of a downstream task.

R is the side of the model's square input, px. All randomness of an example comes from the generator that is passed in.
Batches of these examples are put together in `cclm/data/batches/finetuning_collate.py`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from cclm.config.sources import AugmentConfig
from cclm.data.annotations.annotation_sets import ClassificationSet, ImageRef, PairSet, QuestionSet, RetrievalSet
from cclm.data.examples.images import Pixels, training_image
from cclm.data.examples.regions import says_left_or_right
from cclm.data.examples.texts import TextRules, caption_ids
from cclm.data.examples.tokenizer import Tokenizer
from cclm.data.stored.records import BrokenRecord
from cclm.errors import UserError


class RetrievalExample(NamedTuple):
    """An image and one of its captions."""

    image: Pixels
    """(R, R, 3) uint8, RGB; the same in the other examples."""
    ids: list[int]
    """Token ids of the text, `<s> ... </s>`; the same in the other examples."""
    image_id: int
    """Equal for all captions of one image."""


class ClassificationExample(NamedTuple):
    """An image, a sentence about it, and their class."""

    image: Pixels
    ids: list[int]
    label: int


class PairExample(NamedTuple):
    """Two images, a sentence about both, and whether it is true."""

    left: Pixels
    right: Pixels
    ids: list[int]
    label: int


class QuestionExample(NamedTuple):
    """An image, a question about it, and all its right answers."""

    image: Pixels
    question: list[int]
    answers: list[list[int]]


E_co = TypeVar("E_co", covariant=True)


class ExampleSet(Protocol[E_co]):
    """The training examples of one annotation set, made when they are asked for."""

    def __len__(self) -> int: ...

    def example(self, number: int, rng: random.Random) -> E_co:
        """Example `number`, with random numbers from `rng`.

        Raises:
            UserError: its image cannot be read, or cleaning leaves nothing of its text.
        """
        ...


@dataclass(frozen=True)
class Preprocessor:
    """How images and texts become what the model reads: the same for all examples of a run."""

    side: int
    """R, px"""
    augment: AugmentConfig
    text: TextRules
    tokenizer: Tokenizer

    def image(self, image: ImageRef, place: str, rng: random.Random, *, flip: bool = True) -> Pixels:
        """A random crop, (R, R, 3) uint8, augmented; never mirrored if `flip` is False.

        Raises:
            UserError: the image cannot be read.
        """
        augment = self.augment if flip else self.augment.model_copy(update={"horizontal_flip": 0.0})
        try:
            return training_image(image.read(), self.side, augment, rng)
        except BrokenRecord as error:
            raise UserError(f"{place}: {image.describe_unreadable(error.detail)}") from None

    def ids(self, text: str, place: str) -> list[int]:
        """Token ids, `<s> ... </s>`. Raises UserError as `TextRules.ids`."""
        return self.text.ids(text, self.tokenizer, place)


class RetrievalExamples:
    """One example for each caption. Captions of one image share an id."""

    def __init__(self, dataset: RetrievalSet, preprocessor: Preprocessor) -> None:
        self._set, self._preprocessor = dataset, preprocessor
        known: dict[int | str, int] = {}
        self._ids = [known.setdefault(identity, len(known)) for identity in dataset.image_ids]

    def __len__(self) -> int:
        return len(self._set.texts)

    def example(self, number: int, rng: random.Random) -> RetrievalExample:
        preprocessor, image = self._preprocessor, self._set.image_of_text[number]
        rules = preprocessor.text
        (ids,) = caption_ids(self._set, [number], preprocessor.tokenizer, rules.max_words, rules.max_tokens)
        pixels = preprocessor.image(self._set.images[image], self._set.image_places[image], rng)
        return RetrievalExample(pixels, ids, self._ids[image])


class ClassificationExamples:
    """One example for each entry."""

    def __init__(self, dataset: ClassificationSet, preprocessor: Preprocessor) -> None:
        self._entries, self._preprocessor = dataset.entries, preprocessor

    def __len__(self) -> int:
        return len(self._entries)

    def example(self, number: int, rng: random.Random) -> ClassificationExample:
        entry = self._entries[number]
        ids = self._preprocessor.ids(entry.text, entry.place)
        return ClassificationExample(self._preprocessor.image(entry.image, entry.place, rng), ids, entry.label)


class PairExamples:
    """One example for each entry. Its two images are cropped and flipped independently, as published."""

    def __init__(self, dataset: PairSet, preprocessor: Preprocessor) -> None:
        self._entries, self._preprocessor = dataset.entries, preprocessor

    def __len__(self) -> int:
        return len(self._entries)

    def example(self, number: int, rng: random.Random) -> PairExample:
        entry = self._entries[number]
        ids = self._preprocessor.ids(entry.text, entry.place)
        left, right = (self._preprocessor.image(image, entry.place, rng) for image in (entry.left, entry.right))
        return PairExample(left, right, ids, entry.label)


class QuestionExamples:
    """One example for each question. An image is not mirrored where its question or an answer says left or right."""

    def __init__(self, dataset: QuestionSet, preprocessor: Preprocessor, max_answer_tokens: int) -> None:
        self._entries, self._preprocessor = dataset.entries, preprocessor
        self._max_answer_tokens = max_answer_tokens

    def __len__(self) -> int:
        return len(self._entries)

    def example(self, number: int, rng: random.Random) -> QuestionExample:
        entry, preprocessor = self._entries[number], self._preprocessor
        flip = not says_left_or_right((entry.question, *entry.answers))
        pixels = preprocessor.image(entry.image, entry.place, rng, flip=flip)
        answers = [preprocessor.tokenizer.ids(answer, self._max_answer_tokens) for answer in entry.answers]
        return QuestionExample(pixels, preprocessor.ids(entry.question, entry.place), answers)
