"""Which curves are drawn: the numbers of runs, sorted into sections, panels and one curve a run."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cclm.curves.runs import Run
from cclm.metrics.metrics_lines import MEAN, MEAN_WITHOUT_EN, RETRIEVAL, VALIDATION, IntervalLine, ScoreLine


class Look(enum.Enum):
    """How curves of a kind are best drawn."""

    NOISY = enum.auto()
    """Each value has noise, so many of them are smoothed."""
    SMOOTH = enum.auto()
    POINTS = enum.auto()
    """There are few values, and each is marked."""


@dataclass(frozen=True)
class Curve:
    """One quantity of one run."""

    run: int
    """Index of the run."""
    steps: list[int]
    values: list[float]
    """One a step; may be infinite or NaN, as the file is."""


@dataclass(frozen=True)
class Panel:
    """One chart: the same quantity of every run that has it."""

    title: str
    unit: str
    """Label of the vertical axis."""
    curves: list[Curve]
    look: Look
    from_zero: bool = False
    """Whether the vertical axis begins at 0."""


@dataclass(frozen=True)
class Section:
    """Charts that belong together."""

    title: str
    panels: list[Panel] = field(default_factory=list)


def sections_of(runs: Sequence[Run]) -> list[Section]:
    """All sections that have something to show."""
    sections = [
        Section(
            "Losses",
            _named_panels(runs, lambda line: line.losses, _loss_title, "loss, mean of the interval", Look.NOISY),
        ),
        Section("Optimisation", _optimisation(runs)),
        Section("Speed and data", _speed(runs)),
        *_scores(runs, RETRIEVAL, "Held-out retrieval"),
        *_scores(runs, VALIDATION, "Validation"),
    ]
    return [section for section in sections if section.panels]


def _loss_title(key: str) -> str:
    kind, _, name = key.partition("/")
    return f"{kind}: {name.removeprefix('loss_')}"


def _optimisation(runs: Sequence[Run]) -> list[Panel]:
    rate = [
        Panel(
            "learning rate",
            "learning rate",
            [_curve(i, run, lambda line: line.lr) for i, run in enumerate(runs)],
            Look.SMOOTH,
            from_zero=True,
        )
    ]
    norms = _named_panels(
        runs,
        lambda line: line.grad_norms,
        lambda kind: f"gradient norm, {kind}",
        "norm before clipping",
        Look.NOISY,
        True,
    )
    return _drawable(rate) + norms + _named_panels(runs, lambda line: line.learnt, str, "learnt value", Look.SMOOTH)


def _speed(runs: Sequence[Run]) -> list[Panel]:
    images = [_curve(i, run, lambda line: line.images_per_second) for i, run in enumerate(runs)]
    texts = [_curve(i, run, lambda line: line.texts_per_second) for i, run in enumerate(runs)]
    skipped = [_curve(i, run, lambda line: sum(line.skipped.values())) for i, run in enumerate(runs)]
    panels = [
        Panel("throughput, images", "images/s", images, Look.NOISY, from_zero=True),
        Panel("throughput, texts", "texts/s", texts, Look.NOISY, from_zero=True),
    ]
    if any(any(curve.values) for curve in skipped):
        panels.append(Panel("broken records left out so far", "records", skipped, Look.SMOOTH, from_zero=True))
    return _drawable(panels)


def _scores(runs: Sequence[Run], split: str, title: str) -> list[Section]:
    """A section for each metric that runs were measured by, with a panel for the mean and one for each language."""
    lines = [run.metrics.scores_of(split) for run in runs]
    sections = []
    for metric in _unique(line.metric for of in lines for line in of):
        measured = [[line for line in of if line.metric == metric] for of in lines]
        rows = _unique(row for of in measured for line in of for row in line.rows)
        languages = [row for row in rows if row not in (MEAN, MEAN_WITHOUT_EN)]
        shown = [MEAN, *([MEAN_WITHOUT_EN] if MEAN_WITHOUT_EN in rows else []), *languages]
        panels = [
            Panel(row, "percent", [_score_curve(i, of, row) for i, of in enumerate(measured)], Look.POINTS)
            for row in (shown if len(languages) > 1 else languages)
        ]
        name = "mean recall" if metric == "r_mean" else metric
        sections.append(Section(f"{title}: {name}", _drawable(panels)))
    return sections


def _named_panels(
    runs: Sequence[Run],
    values_of: Callable[[IntervalLine], Mapping[str, float]],
    title_of: Callable[[str], str],
    unit: str,
    look: Look,
    from_zero: bool = False,
) -> list[Panel]:
    """A panel for each name that any interval has a value of."""
    names = _unique(name for run in runs for line in run.metrics.intervals for name in values_of(line))
    panels = []
    for name in names:
        curves = []
        for index, run in enumerate(runs):
            points = [(line.step, values_of(line)[name]) for line in run.metrics.intervals if name in values_of(line)]
            curves.append(Curve(index, [step for step, _ in points], [value for _, value in points]))
        panels.append(Panel(title_of(name), unit, curves, look, from_zero))
    return _drawable(panels)


def _curve(index: int, run: Run, value_of: Callable[[IntervalLine], float]) -> Curve:
    lines = run.metrics.intervals
    return Curve(index, [line.step for line in lines], [value_of(line) for line in lines])


def _score_curve(index: int, lines: Sequence[ScoreLine], row: str) -> Curve:
    measured = [line for line in lines if row in line.rows]
    return Curve(index, [line.step for line in measured], [line.value(row) for line in measured])


def _drawable(panels: Iterable[Panel]) -> list[Panel]:
    """Panels without curves that have no point, and no panel without curves."""
    kept = []
    for panel in panels:
        curves = [curve for curve in panel.curves if any(value == value for value in curve.values)]
        if curves:
            kept.append(replace(panel, curves=curves))
    return kept


def _unique(names: Iterable[str]) -> list[str]:
    """Each once, in the order of their first appearance."""
    return list(dict.fromkeys(names))
