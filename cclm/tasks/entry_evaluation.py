"""Classification, two-image and answering test sets of several languages, measured by all processes together.

Dimension letters: N images of a group, S entries, L tokens, P patches, H width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cclm import distributed
from cclm.data.annotations.types import QuestionSet
from cclm.data.batches.evaluation_batches import evaluation_image_groups
from cclm.data.examples.entries import EntryGroup, EntrySet, group_entries, images_of, text_of
from cclm.data.examples.texts import TextRules
from cclm.data.examples.tokenizer import Tokenizer
from cclm.metrics.measured import Measured, accuracy
from cclm.metrics.progress import with_progress
from cclm.model.attention import Context
from cclm.sequences import PackedSequences, Sequences
from cclm.tasks.answering import AnsweringTask
from cclm.tasks.classification import ClassificationTask
from cclm.tasks.ranking import AnswerTree, rank_answers
from cclm.tasks.reasoning import PairTask

_TEXTS_AT_ONCE = 128


@dataclass(frozen=True)
class Predicted:
    """What a model says about S entries."""

    values: Tensor
    """(S,) int64: class, or row of the answer list."""
    scores: Tensor
    """(S,) float32: its probability."""


Predict = Callable[[Sequences, Tensor, PackedSequences], Predicted]
"""(states of a group's images (N, 1+P, H), rows (S, 1 or 2) int64, token ids of S texts) -> predictions."""


@dataclass(frozen=True)
class EntryTest:
    """How test sets are measured."""

    image_size: int
    """px"""
    batch_size: int
    """Images, or pairs of images, at once."""
    text: TextRules
    answers: tuple[str, ...] = ()
    """Answering: the answer list."""
    candidates: int = 0
    """Answering: answers scored in full."""


def predictor(task: torch.nn.Module, test: EntryTest, tokenizer: Tokenizer, device: torch.device) -> Predict:
    """What `task` says of entries."""
    if isinstance(task, ClassificationTask):
        return lambda images, rows, text: _best_class(task.logits_of(Context(images, rows[:, 0]), text))
    if isinstance(task, PairTask):
        return lambda images, rows, text: _best_class(
            task.logits_of(Context(images, rows[:, 0]), Context(images, rows[:, 1]), text)
        )
    if isinstance(task, AnsweringTask):
        longest = task.decoder.embeddings.position.num_embeddings
        tree = AnswerTree.build([tokenizer.ids(answer, longest) for answer in test.answers]).to(device)

        def answer(images: Sequences, rows: Tensor, text: PackedSequences) -> Predicted:
            questions = task.encoders.fuse(task.encoders.encode_text(text), Context(images, rows[:, 0]))
            padded = Sequences(questions.padded(), questions.lengths)  # (S, L, H)
            ranked = rank_answers(task.decoder, padded, tree, test.candidates)
            return Predicted(ranked.answers[:, 0], ranked.probabilities[:, 0])

        return answer
    raise TypeError(f"a {type(task).__name__} has no entries to predict")


@torch.no_grad()
def evaluate_entries(
    task: torch.nn.Module,
    sets: Mapping[str, EntrySet],
    tokenizer: Tokenizer,
    test: EntryTest,
    device: torch.device,
) -> dict[str, Measured]:
    """Accuracy in percent of each set, on every process; the task is used in the mode it is in.

    Raises:
        UserError: an image is missing or broken, or a sentence is empty.
    """
    predict = predictor(task, test, tokenizer, device)
    groups = group_entries(sets, test.batch_size)
    mine = groups[distributed.rank() :: distributed.world_size()]
    batches = evaluation_image_groups([group.images for group in mine], test.image_size)
    shown = with_progress(batches, len(mine), "evaluation", active=distributed.rank() == 0)
    found: list[tuple[str, int, int, float]] = []
    for group, batch in zip(mine, shown, strict=True):
        states = task.encoders.image_encoder(batch.to(device, non_blocking=True))
        found += _predict_group(group, states, predict, tokenizer, test.text, device)
    by_set: dict[str, dict[int, tuple[int, float]]] = {name: {} for name in sets}
    for name, entry, value, score in (line for part in distributed.gather_objects(found) for line in part):
        by_set[name][entry] = value, score
    return {name: _measured(sets[name], predicted, test.answers) for name, predicted in by_set.items()}


def _predict_group(
    group: EntryGroup,
    states: Sequences,
    predict: Predict,
    tokenizer: Tokenizer,
    text: TextRules,
    device: torch.device,
) -> list[tuple[str, int, int, float]]:
    """(set, entry, predicted, score) of each entry of a group."""
    found = []
    for start in range(0, len(group.texts), _TEXTS_AT_ONCE):
        texts = group.texts[start : start + _TEXTS_AT_ONCE]
        ids = PackedSequences.from_lists([text.ids(each.text, tokenizer, each.place) for each in texts])
        rows = torch.tensor(group.rows[start : start + _TEXTS_AT_ONCE])  # (S, images an entry)
        used, places = rows.unique(return_inverse=True)
        predicted = predict(states.select(used.to(device)), places.to(device), ids.to(device, non_blocking=True))
        values, scores = predicted.values.tolist(), predicted.scores.tolist()
        said = zip(texts, values, scores, strict=True)
        found += [(each.set_name, each.entry, value, score) for each, value, score in said]
    return found


def _best_class(logits: Tensor) -> Predicted:
    """(S, C) -> the likeliest class."""
    best = logits.float().softmax(dim=1).max(dim=1)
    return Predicted(best.indices, best.values)


def _measured(dataset: EntrySet, predicted: Mapping[int, tuple[int, float]], answers: tuple[str, ...]) -> Measured:
    """Every entry once; the lines of predictions on the first process alone."""
    if predicted.keys() != set(range(len(dataset))):
        raise RuntimeError(f"{len(predicted)} of {len(dataset)} entries of {dataset.files} were predicted")
    right, lines = 0, []
    for entry in range(len(dataset)):
        value, score = predicted[entry]
        said: Any = answers[value] if isinstance(dataset, QuestionSet) else value
        wanted: Any = (
            dataset.entries[entry].answers[0] if isinstance(dataset, QuestionSet) else dataset.entries[entry].label
        )
        right += said == wanted
        if distributed.rank() == 0:
            lines.append(_line(dataset, entry) | {"predicted": said, "right": wanted, "score": score})
    return Measured(accuracy(right, len(dataset)), len(dataset), lines)


def _line(dataset: EntrySet, entry: int) -> dict[str, Any]:
    """What was asked."""
    asked: dict[str, Any] = {"place": dataset.entries[entry].place}
    if isinstance(dataset, QuestionSet):
        asked["question_id"] = dataset.entries[entry].question_id
    return asked | {"text": text_of(dataset, entry), "images": [image.url for image in images_of(dataset, entry)]}
