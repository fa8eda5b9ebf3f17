"""Lists of fine-tuning examples become typed batches (`finetuning_batch.py`; dimension letters there).

`pad_id` is the id of `<pad>`, with which shorter texts are filled up on the right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from cclm.data.batches.finetuning_batch import AnswerBatch, ClassificationBatch, PairBatch, RetrievalBatch
from cclm.data.examples.finetuning_examples import (
    ClassificationExample,
    PairExample,
    QuestionExample,
    RetrievalExample,
)
from cclm.data.examples.images import Pixels
from cclm.sequences import Sequences


def collate_retrieval(examples: Sequence[RetrievalExample], pad_id: int) -> RetrievalBatch:
    return RetrievalBatch(
        images=_stack(each.image for each in examples),
        text=Sequences.from_lists([each.ids for each in examples], pad_id),
        image_ids=torch.tensor([each.image_id for each in examples]),
    )


def collate_classification(examples: Sequence[ClassificationExample], pad_id: int) -> ClassificationBatch:
    return ClassificationBatch(
        images=_stack(each.image for each in examples),
        text=Sequences.from_lists([each.ids for each in examples], pad_id),
        labels=torch.tensor([each.label for each in examples]),
    )


def collate_pairs(examples: Sequence[PairExample], pad_id: int) -> PairBatch:
    return PairBatch(
        left=_stack(each.left for each in examples),
        right=_stack(each.right for each in examples),
        text=Sequences.from_lists([each.ids for each in examples], pad_id),
        labels=torch.tensor([each.label for each in examples]),
    )


def collate_questions(examples: Sequence[QuestionExample], pad_id: int) -> AnswerBatch:
    """Every answer of a question weighs 1 / the number of its answers."""
    answers = [each.answers for each in examples]
    return AnswerBatch(
        images=_stack(each.image for each in examples),
        questions=Sequences.from_lists([each.question for each in examples], pad_id),
        answers=Sequences.from_lists([answer for of_question in answers for answer in of_question], pad_id),
        question_of_answer=torch.tensor([row for row, of_question in enumerate(answers) for _ in of_question]),
        weights=torch.tensor([1 / len(each) for each in answers for _ in each], dtype=torch.float32),
    )


def _stack(images: Iterable[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(list(images)))
