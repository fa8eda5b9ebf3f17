"""Means of a run's numbers: kept as sums and counts, fetched from the device once a logging interval.

No value is read from the device while steps are running, so that a GPU never waits for the log.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Update:
    """One optimizer update of this process."""

    step: int
    """Outer step, from 0."""
    kind: str
    values: dict[str, float]

    @property
    def non_finite(self) -> tuple[str, ...]:
        """Names of values that are infinite or not a number."""
        return tuple(name for name, value in self.values.items() if not math.isfinite(value))


class _PendingUpdate(NamedTuple):
    step: int
    kind: str
    names: list[str]
    values: Tensor
    """(names,) float32, on the device."""


class RunningValues:
    """Named scalars of many updates, on their device until `take`."""

    def __init__(self) -> None:
        self._pending: list[_PendingUpdate] = []

    def add(self, step: int, kind: str, values: Mapping[str, Tensor]) -> None:
        """Remember the values of one update, each of shape ()."""
        stacked = torch.stack([value.detach().float() for value in values.values()])
        self._pending.append(_PendingUpdate(step, kind, list(values), stacked))

    def take(self) -> list[Update]:
        """All updates since the last call, in order; waits for the device once."""
        if not self._pending:
            return []
        numbers = iter(torch.cat([update.values for update in self._pending]).tolist())
        updates = [
            Update(update.step, update.kind, {name: next(numbers) for name in update.names}) for update in self._pending
        ]
        self._pending.clear()
        return updates


def sums_and_counts(updates: Iterable[Update]) -> dict[str, float]:
    """ "kind/name" -> sum of the values and "kind/name#" -> their number, ready to be added up over processes."""
    totals: dict[str, float] = {}
    for update in updates:
        for name, value in update.values.items():
            key = f"{update.kind}/{name}"
            totals[key] = totals.get(key, 0.0) + value
            totals[f"{key}#"] = totals.get(f"{key}#", 0) + 1
    return totals


def means(totals: Mapping[str, float]) -> dict[str, float]:
    """Means from the totals of `sums_and_counts`, of one process or added up over all: "kind/name" -> mean."""
    return {key: total / totals[f"{key}#"] for key, total in totals.items() if not key.endswith("#")}
