"""Validation during fine-tuning: when, what is kept, and which model is the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cclm.config.finetune import EpochTrainingConfig, FinetuneConfig
from cclm.metrics.measured import Measured, mean_metric
from cclm.metrics.results import as_json


def selection_metric(config: FinetuneConfig) -> str:
    """The metric whose mean over languages selects the model."""
    return "r_mean" if config.task == "retrieval" else "accuracy"


def steps_of_epoch(examples: int, batch_size: int) -> int:
    """As published, what does not fill a batch is left to the next epoch; a set smaller than a batch makes one step."""
    return max(1, examples // batch_size)


def total_steps(training: EpochTrainingConfig, examples: int) -> int:
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
    """A number of steps of which all validations but the last are multiples."""
    epochs = math.gcd(training.first_validation + 1, training.validate_every)
    return epochs * steps_of_epoch(examples, training.batch_size)


class Validations:
    """What validation said so far, kept in the checkpoints; the same on every process.

    Args:
        said: `said` of the run that goes on, as its checkpoint holds it.
    """

    def __init__(self, said: Sequence[Mapping[str, Any]] = ()) -> None:
        self.said: list[Mapping[str, Any]] = [*said]
        """JSON values, one a validation: step, metric, score, and the metrics of all languages."""

    def has(self, step: int) -> bool:
        return any(each["step"] == step for each in self.said)

    def is_better(self, score: float) -> bool:
        """Better than all so far: of equal ones the first is kept."""
        return all(score > each["score"] for each in self.said)

    def add(self, step: int, metric: str, measured: Mapping[str, Measured]) -> Mapping[str, Any]:
        """Remember one validation; returns what is remembered."""
        self.said.append({"step": step, "metric": metric, "score": mean_metric(measured, metric), **as_json(measured)})
        return self.said[-1]
