"""Typed batches of the downstream tasks. Dimension letters as in `batch.py`, and A answers of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cclm.data.batches.batch import OnDevice
from cclm.sequences import Sequences


@dataclass(frozen=True)
class RetrievalBatch(OnDevice):
    """Images with one caption each; captions of one image share its id."""

    images: Tensor
    """(B, R, R, 3) uint8"""
    text: Sequences
    image_ids: Tensor
    """(B,) int64"""


@dataclass(frozen=True)
class ClassificationBatch(OnDevice):
    """Image, sentence, class (XVNLI)."""

    images: Tensor
    """(B, R, R, 3) uint8"""
    text: Sequences
    labels: Tensor
    """(B,) int64"""


@dataclass(frozen=True)
class PairBatch(OnDevice):
    """Two images, a sentence about both, and whether it is true (NLVR2, MaRVL)."""

    left: Tensor
    """(B, R, R, 3) uint8"""
    right: Tensor
    """(B, R, R, 3) uint8"""
    text: Sequences
    labels: Tensor
    """(B,) int64: 1 true, 0 false"""


@dataclass(frozen=True)
class AnswerBatch(OnDevice):
    """Image, question, and its weighted answers (GQA, xGQA)."""

    images: Tensor
    """(B, R, R, 3) uint8"""
    questions: Sequences
    answers: Sequences
    """A answers of all questions, `<s> ... </s>`."""
    question_of_answer: Tensor
    """(A,) int64"""
    weights: Tensor
    """(A,) float32"""


FinetuneBatch = RetrievalBatch | ClassificationBatch | PairBatch | AnswerBatch
