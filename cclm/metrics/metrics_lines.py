"""Reads `metrics.jsonl`: the intervals of a run and its evaluations, typed.

A file is read as it is found: its run may be writing a line, may have been cut off in one, or may share the file with
another run. What cannot be used is left out and counted. Units and meanings are those of `docs/metrics.md`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cclm.metrics.tables import main_metric

RETRIEVAL, VALIDATION = "retrieval", "validation"
TESTS = ("test", "translated_test")
SPLITS = (RETRIEVAL, VALIDATION, *TESTS)
"""Keys of lines that hold scores."""

MEAN, MEAN_WITHOUT_EN = "mean", "mean without en"
"""Names of rows that average languages."""


@dataclass(frozen=True)
class IntervalLine:
    """One logging interval. A number that its line lacks is NaN."""

    step: int
    """Outer steps done."""
    losses: Mapping[str, float]
    """By "kind/name"; means, not weighted."""
    lr: float
    grad_norms: Mapping[str, float]
    """By kind of batch."""
    learnt: Mapping[str, float]
    """Parameters that are single numbers, by name."""
    images_per_second: float
    texts_per_second: float
    seconds: float
    """Length of the interval."""
    skipped: Mapping[str, float]
    """Broken records of the run so far, by kind."""
    model_flops_per_second: float = math.nan
    model_flops_utilization: float = math.nan


@dataclass(frozen=True)
class ScoreLine:
    """One evaluation."""

    step: int
    """Outer steps that the model was trained for."""
    split: str
    """One of `SPLITS`."""
    rows: Mapping[str, Mapping[str, float]]
    """By language, `MEAN` and `MEAN_WITHOUT_EN`: metrics by name, in percent."""

    @property
    def metric(self) -> str:
        """As `main_metric`."""
        return main_metric(next(iter(self.rows.values())))

    def value(self, row: str = MEAN) -> float:
        """`metric` of one row, in percent; NaN where the line lacks it."""
        return self.rows.get(row, {}).get(self.metric, math.nan)


@dataclass(frozen=True)
class StepBack:
    """A place in the file where steps begin again."""

    last: int
    """Step of the interval before."""
    step: int
    """Step of the interval after, which is not greater."""


@dataclass
class MetricsLines:
    """What a `metrics.jsonl` says."""

    intervals: list[IntervalLine] = field(default_factory=list)
    """Steps increase."""
    scores: list[ScoreLine] = field(default_factory=list)
    """In the order of the file; one a split and step."""
    steps_back: list[StepBack] = field(default_factory=list)
    """A run drops its lines of later steps before it makes them again. So if there is one, the file holds lines of
    several runs. `intervals` and `scores` then hold the newer lines, and of the older ones those of earlier steps."""
    unreadable: int = 0
    """Lines that are no JSON object with a step; an unfinished last one is not counted."""

    @property
    def last_step(self) -> int | None:
        """The greatest step of any line; None for a file without lines."""
        steps = [line.step for line in self.intervals] + [line.step for line in self.scores]
        return max(steps, default=None)

    def unreadable_note(self, path: str) -> str | None:
        """A sentence on the unreadable lines of the file at `path`; None if there are none."""
        lines = "line that is" if self.unreadable == 1 else "lines that are"
        note = f"{path} has {self.unreadable} {lines} no JSON object with a step; left out"
        return note if self.unreadable else None

    def scores_of(self, split: str) -> list[ScoreLine]:
        """Evaluations of a split, by step."""
        return sorted((line for line in self.scores if line.split == split), key=lambda line: line.step)


def read_lines(data: bytes) -> MetricsLines:
    """Read the bytes of a `metrics.jsonl`."""
    read = MetricsLines()
    lines = data.decode("utf-8", "replace").split("\n")
    for number, text in enumerate(lines):
        values = _object(text)
        if values is None:
            is_unfinished = number == len(lines) - 1  # nothing but "" where the file ends with a whole line
            read.unreadable += bool(text.strip()) and not is_unfinished
        elif "losses" in values:
            _add_interval(read, _interval(values))
        else:
            for split in SPLITS:
                rows = _rows(values.get(split))
                if rows:
                    _add_score(read, ScoreLine(values["step"], split, rows))
    return read


def _add_interval(read: MetricsLines, line: IntervalLine) -> None:
    if read.intervals and line.step <= read.intervals[-1].step:
        read.steps_back.append(StepBack(read.intervals[-1].step, line.step))
        read.intervals = [earlier for earlier in read.intervals if earlier.step < line.step]
        read.scores = [earlier for earlier in read.scores if earlier.step < line.step]
    read.intervals.append(line)


def _add_score(read: MetricsLines, line: ScoreLine) -> None:
    """A split may be evaluated again at the same step. The newer numbers count."""
    same = (line.split, line.step)
    read.scores = [earlier for earlier in read.scores if (earlier.split, earlier.step) != same]
    read.scores.append(line)


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object of a line; None if it is none, or has no step."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_line = isinstance(values, dict) and type(values.get("step")) is int
    return values if is_line else None


def _interval(values: Mapping[str, Any]) -> IntervalLine:
    return IntervalLine(
        step=values["step"],
        losses=_numbers(values.get("losses")),
        lr=_number(values.get("lr")),
        grad_norms=_numbers(values.get("grad_norms")),
        learnt=_numbers(values.get("learnt")),
        images_per_second=_number(values.get("images_per_second")),
        texts_per_second=_number(values.get("texts_per_second")),
        seconds=_number(values.get("seconds")),
        skipped=_numbers(values.get("skipped")),
        model_flops_per_second=_number(values.get("model_flops_per_second")),
        model_flops_utilization=_number(values.get("model_flops_utilization")),
    )


def _rows(scores: Any) -> dict[str, dict[str, float]]:
    """Rows of both forms: held-out retrieval has all rows side by side, other splits keep languages apart."""
    if not isinstance(scores, dict):
        return {}
    languages = scores.get("languages")
    if isinstance(languages, dict):
        scores = {**languages, MEAN: scores.get("mean"), MEAN_WITHOUT_EN: scores.get("mean_without_en")}
    rows = {str(name): _numbers(row) for name, row in scores.items()}
    for row in rows.values():
        row.pop("examples", None)
    return {name: row for name, row in rows.items() if row}


def _numbers(values: Any) -> dict[str, float]:
    """The numbers of a JSON object; empty for anything else."""
    items = values.items() if isinstance(values, dict) else ()
    return {str(name): float(value) for name, value in items if _is_number(value)}


def _number(value: Any) -> float:
    return float(value) if _is_number(value) else math.nan


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
