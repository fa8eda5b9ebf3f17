"""Evaluation of classification, two-image and answering sets in several languages, by all processes together.

See docs/method.md, section Evaluation.

Dimension letters: N images of a group, S entries, L tokens, P patches, H width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cclm import distributed
from cclm.data.annotations.annotation_sets import QuestionSet
from cclm.data.batches.evaluation_batches import evaluation_image_groups
from cclm.data.examples.entries import EntryGroup, EntrySet, group_entries, images_of, text_of
from cclm.data.examples.texts import TextRules
from cclm.data.examples.tokenizer import Tokenizer
from cclm.metrics.measured import Measured, accuracy, refuse_scores_not_finite
from cclm.metrics.progress import with_progress
from cclm.model.attention import Context
from cclm.sequences import PackedSequences, Sequences
from cclm.tasks.answering import AnsweringTask
from cclm.tasks.classification import ClassificationTask
from cclm.tasks.ranking import AnswerTree, rank_answers
from cclm.tasks.reasoning import PairTask

_TEXTS_AT_ONCE = 128


EntryTask = ClassificationTask | PairTask | AnsweringTask
"""Tasks that predict one value for each entry of a set."""


@dataclass(frozen=True)
class Predictions:
    """What a model predicts for S entries."""

    values: Tensor
    """(S,) int64: class, or row of the answer list."""
    scores: Tensor
    """(S,) float32: probability of the value."""


class EntryPrediction(NamedTuple):
    """What a model predicts for one entry."""

    set_name: str
    entry: int
    """Number of the entry in its set, from 0."""
    value: int
    """Class, or row of the answer list."""
    score: float
    """Probability of the value."""


Predict = Callable[[Sequences, Tensor, PackedSequences], Predictions]
"""Takes states of a group's images (N, 1+P, H); for each text its images as rows of them, (S, 1 or 2) int64; and token
ids of S texts."""


@dataclass(frozen=True)
class EntryTest:
    """How test sets are measured."""

    image_size: int
    """px"""
    batch_size: int
    """Images, or pairs of images, at once."""
    text: TextRules
    answers: tuple[str, ...] = ()
    """Answering only: the answer list."""
    candidates: int = 0
    """Answering only: number of answers that are scored in full for each question."""


def predictor(task: EntryTask, test: EntryTest, tokenizer: Tokenizer, device: torch.device) -> Predict:
    """The function that predicts values by `task`."""
    if isinstance(task, ClassificationTask):
        return lambda images, rows, text: _best_class(task.logits_from_states(Context(images, rows[:, 0]), text))
    if isinstance(task, PairTask):
        return lambda images, rows, text: _best_class(
            task.logits_from_states(Context(images, rows[:, 0]), Context(images, rows[:, 1]), text)
        )
    longest = task.decoder.embeddings.position.num_embeddings
    tree = AnswerTree.build([tokenizer.ids(answer, longest) for answer in test.answers]).to(device)

    def best_answer(images: Sequences, rows: Tensor, text: PackedSequences) -> Predictions:
        questions = task.encoders.fuse(task.encoders.encode_text(text), Context(images, rows[:, 0]))
        padded = Sequences(questions.padded(), questions.lengths)  # (S, L, H)
        ranked = rank_answers(task.decoder, padded, tree, test.candidates)
        return Predictions(ranked.answers[:, 0], ranked.probabilities[:, 0])

    return best_answer


@torch.no_grad()
def evaluate_entries(
    task: torch.nn.Module,
    sets: Mapping[str, EntrySet],
    tokenizer: Tokenizer,
    test: EntryTest,
    device: torch.device,
) -> dict[str, Measured]:
    """Accuracy in percent of each set, the same on every process.

    Args:
        task: an EntryTask on `device`. It stays in its mode, training or evaluation.
        sets: name (a language) -> set.

    Raises:
        UserError: an image is missing or broken, a sentence is empty, or the model gives scores that are not finite.
        TypeError: the task is of another class.
    """
    if not isinstance(task, EntryTask):
        raise TypeError(f"a {type(task).__name__} has no entries to predict")
    predict = predictor(task, test, tokenizer, device)
    groups = group_entries(sets, test.batch_size)
    mine = groups[distributed.rank() :: distributed.world_size()]
    batches = evaluation_image_groups([group.images for group in mine], test.image_size)
    shown = with_progress(batches, len(mine), "evaluation", active=distributed.rank() == 0)
    predictions: list[EntryPrediction] = []
    for group, batch in zip(mine, shown, strict=True):
        states = task.encoders.image_encoder(batch.to(device, non_blocking=True))
        predictions += _predict_group(group, states, predict, tokenizer, test.text, device)
    by_set: dict[str, dict[int, EntryPrediction]] = {name: {} for name in sets}
    for predicted in (each for part in distributed.gather_objects(predictions) for each in part):
        by_set[predicted.set_name][predicted.entry] = predicted
    return {name: _measured(sets[name], by_entry, test.answers) for name, by_entry in by_set.items()}


def _predict_group(
    group: EntryGroup,
    states: Sequences,
    predict: Predict,
    tokenizer: Tokenizer,
    text: TextRules,
    device: torch.device,
) -> list[EntryPrediction]:
    """Predictions for all entries of a group. `states` (N, 1+P, H) are those of its images."""
    predictions = []
    for start in range(0, len(group.texts), _TEXTS_AT_ONCE):
        texts = group.texts[start : start + _TEXTS_AT_ONCE]
        ids = PackedSequences.from_lists([text.ids(each.text, tokenizer, each.place) for each in texts])
        rows = torch.tensor(group.rows[start : start + _TEXTS_AT_ONCE])  # (S, images of an entry)
        used, places = torch.unique(rows, return_inverse=True)
        predicted = predict(states.select(used.to(device)), places.to(device), ids.to(device, non_blocking=True))
        values, scores = predicted.values.tolist(), predicted.scores.tolist()
        predictions += [
            EntryPrediction(each.set_name, each.entry, value, score)
            for each, value, score in zip(texts, values, scores, strict=True)
        ]
    return predictions


def _best_class(logits: Tensor) -> Predictions:
    """Logits (S, C) -> the likeliest classes."""
    best = logits.float().softmax(dim=1).max(dim=1)
    return Predictions(best.indices, best.values)


def _measured(dataset: EntrySet, predicted: Mapping[int, EntryPrediction], answers: tuple[str, ...]) -> Measured:
    """Accuracy over all entries. The first process alone has lines of predictions."""
    if predicted.keys() != set(range(len(dataset))):
        raise RuntimeError(f"{len(predicted)} of {len(dataset)} entries of {dataset.files} were predicted")
    refuse_scores_not_finite([each.score for each in predicted.values()])
    right, lines = 0, []
    for entry in range(len(dataset)):
        value: int | str = predicted[entry].value
        label: int | str
        if isinstance(dataset, QuestionSet):
            value, label = answers[predicted[entry].value], dataset.entries[entry].answers[0]
        else:
            label = dataset.entries[entry].label
        right += value == label
        if distributed.rank() == 0:
            lines.append(
                _entry_line(dataset, entry) | {"predicted": value, "right": label, "score": predicted[entry].score}
            )
    return Measured(accuracy(right, len(dataset)), len(dataset), lines)


def _entry_line(dataset: EntrySet, entry: int) -> dict[str, Any]:
    """The part of a line of predictions that describes the entry."""
    line: dict[str, Any] = {"place": dataset.entries[entry].place}
    if isinstance(dataset, QuestionSet):
        line["question_id"] = dataset.entries[entry].question_id
    return line | {"text": text_of(dataset, entry), "images": [image.url for image in images_of(dataset, entry)]}
