"""Validation during fine-tuning: when, what is kept, and which model is the best."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cclm import distributed
from cclm.config_finetune import EpochTrainingConfig, FinetuneConfig
from cclm.metrics.measured import Measured, mean_metric
from cclm.metrics.results import as_json

VALIDATIONS = "validations.json"


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


class Validations:
    """What validation said so far, in `validations.json`; the first process writes, all read.

    Args:
        start: steps done before; what was said of later ones is forgotten.
    """

    def __init__(self, folder: Path, start: int) -> None:
        self._path = folder / VALIDATIONS
        said = json.loads(self._path.read_text(encoding="utf-8")) if start and self._path.exists() else []
        self._said: list[dict[str, Any]] = distributed.gather_objects(
            [each for each in said if each["step"] <= start]
        )[0]

    def has(self, step: int) -> bool:
        return any(each["step"] == step for each in self._said)

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The first of those with the highest score."""
        return max(self._said, key=lambda each: each["score"], default=None)

    def is_better(self, score: float) -> bool:
        return self.best is None or score > self.best["score"]

    def add(self, step: int, metric: str, measured: Mapping[str, Measured]) -> None:
        """Remember one validation."""
        score = mean_metric(measured, metric)
        self._said.append({"step": step, "metric": metric, "score": score, **as_json(measured)})
        if distributed.rank() == 0:
            temporary = self._path.with_name(f".{VALIDATIONS}.tmp")
            temporary.write_text(json.dumps(self._said, indent=1) + "\n", encoding="utf-8")
            temporary.replace(self._path)
