"""What the evaluation of one test set gives, for any task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Metrics = dict[str, float]


@dataclass(frozen=True)
class Measured:
    """One language of one split."""

    metrics: Metrics
    """By name, in percent."""
    examples: int
    """Entries, or queries of both directions."""
    predictions: list[dict[str, Any]] = field(default_factory=list)
    """JSON objects: what was asked, predicted, right, and the score; on the first process only."""


def accuracy(right: int, examples: int) -> Metrics:
    """In percent."""
    return {"accuracy": 100.0 * right / examples}


def mean_metric(measured: Mapping[str, Measured], metric: str) -> float:
    """A metric averaged over languages."""
    return sum(each.metrics[metric] for each in measured.values()) / len(measured)
