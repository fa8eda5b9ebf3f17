"""Annotations become training examples, and examples batches (`batch_finetune.py`; dimension letters there).

Everything drawn for one example comes from the random numbers it is given.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cclm.config.sources import AugmentConfig
from cclm.data.annotations.types import ClassificationSet, ImageRef, PairSet, QuestionSet, RetrievalSet
from cclm.data.batches.evaluation_batches import caption_ids
from cclm.data.batches.finetuning_batch import (
    AnswerBatch,
    ClassificationBatch,
    FinetuneBatch,
    PairBatch,
    RetrievalBatch,
)
from cclm.data.examples.entries import TextRules
from cclm.data.examples.images import training_image
from cclm.data.examples.regions import says_left_or_right
from cclm.data.examples.tokenizer import Tokenizer
from cclm.data.stored.records import BrokenRecord
from cclm.errors import UserError
from cclm.sequences import Sequences


@dataclass(frozen=True)
class Making:
    """What the making of all examples has in common."""

    side: int
    """px"""
    augment: AugmentConfig
    text: TextRules
    tokenizer: Tokenizer

    def image(self, image: ImageRef, place: str, rng: random.Random, *, flip: bool = True) -> np.ndarray:
        """(R, R, 3) uint8. Raises UserError for an image that cannot be read."""
        augment = self.augment if flip else self.augment.model_copy(update={"horizontal_flip": 0.0})
        try:
            return training_image(image.read(), self.side, augment, rng)
        except BrokenRecord as error:
            raise UserError(f"{place}: the image {image.url} cannot be read: {error.detail}") from None

    def ids(self, text: str, place: str) -> list[int]:
        return self.text.ids(text, self.tokenizer, place)

    def padded(self, ids: Sequence[Sequence[int]]) -> Sequences:
        return Sequences.from_lists(ids, self.tokenizer.pad)


class Examples(Protocol):
    """The examples of one training set."""

    def __len__(self) -> int: ...

    def example(self, number: int, rng: random.Random) -> Any: ...

    def collate(self, examples: list[Any]) -> FinetuneBatch: ...


class RetrievalExamples:
    """One example a caption; captions of one image share an id."""

    def __init__(self, dataset: RetrievalSet, making: Making) -> None:
        self._set, self._making = dataset, making
        known: dict[int | str, int] = {}
        self._ids = [known.setdefault(identity, len(known)) for identity in dataset.image_ids]

    def __len__(self) -> int:
        return len(self._set.texts)

    def example(self, number: int, rng: random.Random) -> tuple[np.ndarray, list[int], int]:
        making, image = self._making, self._set.image_of_text[number]
        rules = making.text
        (ids,) = caption_ids(self._set, [number], making.tokenizer, rules.max_words, rules.max_tokens)
        pixels = making.image(self._set.images[image], self._set.image_places[image], rng)
        return pixels, ids, self._ids[image]

    def collate(self, examples: list[tuple[np.ndarray, list[int], int]]) -> RetrievalBatch:
        pixels, ids, image_ids = zip(*examples, strict=True)
        return RetrievalBatch(_images(pixels), self._making.padded(ids), torch.tensor(image_ids))


class ClassificationExamples:
    def __init__(self, dataset: ClassificationSet, making: Making) -> None:
        self._entries, self._making = dataset.entries, making

    def __len__(self) -> int:
        return len(self._entries)

    def example(self, number: int, rng: random.Random) -> tuple[np.ndarray, list[int], int]:
        entry = self._entries[number]
        ids = self._making.ids(entry.text, entry.place)
        return self._making.image(entry.image, entry.place, rng), ids, entry.label

    def collate(self, examples: list[tuple[np.ndarray, list[int], int]]) -> ClassificationBatch:
        pixels, ids, labels = zip(*examples, strict=True)
        return ClassificationBatch(_images(pixels), self._making.padded(ids), torch.tensor(labels))


class PairExamples:
    """The two images are cropped and flipped apart, as published."""

    def __init__(self, dataset: PairSet, making: Making) -> None:
        self._entries, self._making = dataset.entries, making

    def __len__(self) -> int:
        return len(self._entries)

    def example(self, number: int, rng: random.Random) -> tuple[np.ndarray, np.ndarray, list[int], int]:
        entry = self._entries[number]
        ids = self._making.ids(entry.text, entry.place)
        left, right = (self._making.image(image, entry.place, rng) for image in (entry.left, entry.right))
        return left, right, ids, entry.label

    def collate(self, examples: list[tuple[np.ndarray, np.ndarray, list[int], int]]) -> PairBatch:
        left, right, ids, labels = zip(*examples, strict=True)
        return PairBatch(_images(left), _images(right), self._making.padded(ids), torch.tensor(labels))


class QuestionExamples:
    """A question with all its answers, each weighing 1 / their number. No flip where one says left or right."""

    def __init__(self, dataset: QuestionSet, making: Making, max_answer_tokens: int) -> None:
        self._entries, self._making, self._longest = dataset.entries, making, max_answer_tokens

    def __len__(self) -> int:
        return len(self._entries)

    def example(self, number: int, rng: random.Random) -> tuple[np.ndarray, list[int], list[list[int]]]:
        entry, making = self._entries[number], self._making
        flip = not says_left_or_right((entry.question, *entry.answers))
        pixels = making.image(entry.image, entry.place, rng, flip=flip)
        answers = [making.tokenizer.ids(answer, self._longest) for answer in entry.answers]
        return pixels, making.ids(entry.question, entry.place), answers

    def collate(self, examples: list[tuple[np.ndarray, list[int], list[list[int]]]]) -> AnswerBatch:
        pixels, questions, answers = zip(*examples, strict=True)
        owners = [row for row, each in enumerate(answers) for _ in each]
        weights = [1 / len(each) for each in answers for _ in each]
        return AnswerBatch(
            images=_images(pixels),
            questions=self._making.padded(questions),
            answers=self._making.padded([answer for each in answers for answer in each]),
            question_of_answer=torch.tensor(owners),
            weights=torch.tensor(weights, dtype=torch.float32),
        )


def examples_of(
    dataset: RetrievalSet | ClassificationSet | PairSet | QuestionSet, making: Making, max_positions: int
) -> Examples:
    """The examples of a set."""
    makers: dict[type, Callable[..., Examples]] = {
        RetrievalSet: RetrievalExamples,
        ClassificationSet: ClassificationExamples,
        PairSet: PairExamples,
    }
    if isinstance(dataset, QuestionSet):
        return QuestionExamples(dataset, making, max_positions)
    return makers[type(dataset)](dataset, making)


def _images(pixels: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(pixels))
