"""The result of evaluating one test set, for any task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cclm.errors import UserError

Metrics = dict[str, float]


@dataclass(frozen=True)
class Measured:
    """The result for one language of one split."""

    metrics: Metrics
    """By name, in percent."""
    examples: int
    """Entries, or queries of both directions."""
    predictions: list[dict[str, Any]] = field(default_factory=list)
    """JSON objects, on the first process only: the question, the prediction, the right answer, and the score."""


def refuse_scores_not_finite(scores: npt.ArrayLike) -> None:
    """Check that scores can be compared. NaN would rank first where greater or equal counts, and last elsewhere.

    Raises:
        UserError: some scores are infinite or not a number.
    """
    values = np.asarray(scores)
    wrong = values.size - int(np.isfinite(values).sum())
    if wrong:
        raise UserError(
            f"{wrong} of {values.size} scores of the model are not finite, so they rank nothing: its training has "
            "diverged, or its weights are broken; evaluate an earlier checkpoint"
        )


def accuracy(right: int, examples: int) -> Metrics:
    """Accuracy in percent.

    Args:
        right: number of right predictions.
        examples: number of all.
    """
    return {"accuracy": 100.0 * right / examples}


def mean_metric(measured: Mapping[str, Measured], metric: str) -> float:
    """A metric averaged over languages."""
    return sum(each.metrics[metric] for each in measured.values()) / len(measured)
