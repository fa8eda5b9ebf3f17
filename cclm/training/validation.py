"""Validation during fine-tuning: when it is due, what is kept of it, and which model is the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from cclm.config.finetune import EpochTrainingConfig, FinetuneConfig
from cclm.errors import UserError
from cclm.events import Selected, Validated
from cclm.metrics.measured import Measured, mean_metric
from cclm.metrics.results import as_json, examples_of, scores_of
from cclm.training.resume import Start
from cclm.training.run import RunContext, Trained


def selection_metric(config: FinetuneConfig) -> str:
    """The metric whose mean over languages selects the model."""
    return "r_mean" if config.task == "retrieval" else "accuracy"


def steps_of_epoch(examples: int, batch_size: int) -> int:
    """Full batches in an epoch: as published, examples that fill none are left to the next epoch. At least one."""
    return max(1, examples // batch_size)


def total_steps(training: EpochTrainingConfig, examples: int) -> int:
    """Steps of the whole run: `max_steps`, or epochs."""
    if training.max_steps is not None:
        return training.max_steps
    return training.epochs * steps_of_epoch(examples, training.batch_size)


def validation_steps(training: EpochTrainingConfig, examples: int) -> list[int]:
    """Steps after which the model is validated: ends of epochs as the config says, and the end."""
    total, each = total_steps(training, examples), steps_of_epoch(examples, training.batch_size)
    first = (training.first_validation + 1) * each
    steps = list(range(first, total + 1, training.validate_every * each))
    return steps if steps and steps[-1] == total else [*steps, total]


def validation_interval(training: EpochTrainingConfig, examples: int) -> int:
    """Steps between possible validations: each but the last falls on a multiple."""
    epochs = math.gcd(training.first_validation + 1, training.validate_every)
    return epochs * steps_of_epoch(examples, training.batch_size)


class Validations:
    """The results of all validations so far, kept in the checkpoints; the same on every process.

    Args:
        results: `results` of the run that goes on, as its checkpoint holds them.
    """

    def __init__(self, results: Sequence[Mapping[str, Any]] = ()) -> None:
        self.results: list[Mapping[str, Any]] = [*results]
        """JSON values, one a validation: step, metric, score, and the metrics of all languages."""

    def has(self, step: int) -> bool:
        return any(each["step"] == step for each in self.results)

    def is_better(self, score: float) -> bool:
        """Whether `score` is above all so far. Of equal scores the first is kept. NaN is never the best."""
        return not math.isnan(score) and not any(each["score"] >= score for each in self.results)

    def add(self, step: int, metric: str, measured: Mapping[str, Measured]) -> Mapping[str, Any]:
        """Remember one validation; returns its result."""
        score = mean_metric(measured, metric)
        self.results.append({"step": step, "metric": metric, "score": score, **as_json(measured)})
        return self.results[-1]


class Validator:
    """Validates the task, and keeps the best model. Every process calls everything.

    Args:
        trained: the task; its facts are kept beside the best model.
        measure: measures the task on all validation sets: language -> what was measured.
        metric: its mean over languages selects the model.
        validations: results so far.
    """

    def __init__(
        self,
        context: RunContext,
        trained: Trained[nn.Module],
        measure: Callable[[nn.Module], Mapping[str, Measured]],
        metric: str,
        validations: Validations,
    ) -> None:
        self._saving, self._journal = context.saving, context.journal
        self._task, self._facts = trained.model, trained.facts
        self._measure, self._metric, self._validations = measure, metric, validations

    def validate(self, step: int) -> None:
        """Measure the model after `step` steps, unless that was done."""
        if self._validations.has(step):
            return
        measured = self._measure(self._task)
        score = mean_metric(measured, self._metric)
        is_better = self._validations.is_better(score)
        result = self._validations.add(step, self._metric, measured)
        if is_better:
            self._saving.save_best(step, self._task, {**self._facts, "validation": result}, score)
        self._journal.emit(Validated("validation", step, scores_of(measured), examples_of(measured), is_best=is_better))

    def load_best(self) -> Start:
        """Set the task to the best model.

        Raises:
            UserError: it could not be written.
        """
        best = self._saving.best()
        if best is None:
            raise UserError(f"no best checkpoint is in {self._saving.folder}: see above why it could not be written")
        self._saving.restore(best, self._task)
        self._journal.emit(Selected(best.step, self._metric, best.state["validation"]["score"]))
        return best
