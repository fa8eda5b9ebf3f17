"""The table of a report: what each run is, in a few lines."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from cclm.curves.runs import Run
from cclm.metrics.metrics_lines import MEAN, RETRIEVAL, TESTS, VALIDATION, ScoreLine

_TITLES = {
    RETRIEVAL: "held-out retrieval",
    VALIDATION: "validation",
    "test": "test",
    "translated_test": "translate-test",
}


class Row(NamedTuple):
    """A line of the table."""

    label: str
    cells: list[str]
    """One a run; "" where a run has nothing to say."""


def overview(runs: Sequence[Run]) -> list[Row]:
    """The rows that have something to say about any run."""
    rows = [
        Row("last step", [f"{run.metrics.last_step:,}" for run in runs]),
        Row("time in training", [_duration(sum(line.seconds for line in run.metrics.intervals)) for run in runs]),
        Row("went on from a checkpoint", [_resumed(run.resumed) for run in runs]),
        Row("median images/s", [_median([line.images_per_second for line in run.metrics.intervals]) for run in runs]),
        Row("broken records", [_skipped(run) for run in runs]),
    ]
    for split in (RETRIEVAL, VALIDATION):
        rows.append(Row(f"best {_TITLES[split]}, mean", [_best(run.metrics.scores_of(split)) for run in runs]))
    for split in TESTS:
        rows.append(Row(f"{_TITLES[split]}, mean", [_last(run.metrics.scores_of(split)) for run in runs]))
    last = [_last_losses(run) for run in runs]
    for key in dict.fromkeys(key for losses in last for key in losses):
        kind, _, name = key.partition("/")
        cells = [losses.get(key, "") for losses in last]
        rows.append(Row(f"last loss, {kind}: {name.removeprefix('loss_')}", cells))
    return [row for row in rows if any(row.cells)]


def rows_of_tests(run: Run) -> list[Row]:
    """The tests of a run by language: the header, and a row for each split and step."""
    lines = [line for split in TESTS for line in run.metrics.scores_of(split)]
    names = list(dict.fromkeys(name for line in lines for name in line.rows))
    rows = [
        Row(
            f"{_TITLES[line.split]}, step {line.step:,}, {line.metric}",
            [f"{line.value(name):.2f}" if name in line.rows else "" for name in names],
        )
        for line in lines
    ]
    return [Row("percent", names), *rows] if rows else []


def _best(lines: Sequence[ScoreLine]) -> str:
    """The best mean, and its step."""
    measured = [line for line in lines if line.value() == line.value()]
    return _score(max(measured, key=ScoreLine.value)) if measured else ""


def _last(lines: Sequence[ScoreLine]) -> str:
    return _score(lines[-1]) if lines else ""


def _score(line: ScoreLine) -> str:
    return f"{line.metric} {line.value(MEAN):.2f} % at step {line.step:,}"


def _last_losses(run: Run) -> dict[str, str]:
    """The newest value of each loss. Not every interval has batches of every kind, so an older one names its step."""
    losses: dict[str, str] = {}
    for line in run.metrics.intervals:
        step = "" if line.step == run.metrics.last_step else f" at step {line.step:,}"
        losses |= {key: f"{value:.4g}{step}" for key, value in line.losses.items()}
    return losses


def _resumed(steps: Sequence[int]) -> str:
    if not steps:
        return ""
    shown = ", ".join(f"{step:,}" for step in steps[:4]) + (", ..." if len(steps) > 4 else "")
    return f"{'once' if len(steps) == 1 else f'{len(steps)} times'}, after step {shown}"


def _skipped(run: Run) -> str:
    intervals = run.metrics.intervals
    return f"{sum(intervals[-1].skipped.values()):,.0f}" if intervals else ""


def _median(values: Sequence[float]) -> str:
    known = [value for value in values if value == value]
    return f"{statistics.median(known):,.0f}" if known else ""


def _duration(seconds: float) -> str:
    """As `1 h 05 min`; "" for no time and for an unknown one."""
    if not seconds > 0 or seconds == float("inf"):
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
