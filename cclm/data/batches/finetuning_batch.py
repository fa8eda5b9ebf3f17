"""Typed batches of the downstream tasks. Dimension letters as in `batch.py`; A is the number of answers of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cclm.data.batches.batch import TensorDataclass
from cclm.sequences import Sequences


@dataclass(frozen=True)
class RetrievalBatch(TensorDataclass):
    """Images with one caption each; captions of one image share its id."""

    images: Tensor
    """(B, R, R, 3) uint8"""
    text: Sequences
    image_ids: Tensor
    """(B,) int64"""


@dataclass(frozen=True)
class ClassificationBatch(TensorDataclass):
    """An image, a sentence about it, and their class (XVNLI)."""

    images: Tensor
    """(B, R, R, 3) uint8"""
    text: Sequences
    labels: Tensor
    """(B,) int64"""


@dataclass(frozen=True)
class PairBatch(TensorDataclass):
    """Two images, a sentence about both, and whether it is true (NLVR2, MaRVL)."""

    left: Tensor
    """(B, R, R, 3) uint8"""
    right: Tensor
    """(B, R, R, 3) uint8"""
    text: Sequences
    labels: Tensor
    """(B,) int64: 1 true, 0 false"""


@dataclass(frozen=True)
class AnswerBatch(TensorDataclass):
    """An image, a question about it, and the question's weighted answers (GQA, xGQA)."""

    images: Tensor
    """(B, R, R, 3) uint8"""
    questions: Sequences
    answers: Sequences
    """The answers of all questions, A in all, each `<s> ... </s>`."""
    question_of_answer: Tensor
    """(A,) int64: row of the question that an answer belongs to."""
    weights: Tensor
    """(A,) float32: the weights of a question's answers sum to 1."""


FinetuneBatch = RetrievalBatch | ClassificationBatch | PairBatch | AnswerBatch
