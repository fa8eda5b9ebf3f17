"""What a dashboard shows, as plain values. `k8s.monitoring.grafana` makes Grafana's JSON of them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

NAMESPACE, RUN = "namespace", "training_kubeflow_org_job_name"
"""Labels of a run: Kubernetes' own, and that of the training operator, which the PodMonitor takes over."""
BY_RUN = f"by ({NAMESPACE}, {RUN})"
OF_RUN = f'{NAMESPACE}="$namespace", {RUN}=~"$run"'
"""Selects the run of the dashboard's variables."""


class Look(enum.Enum):
    """How a panel draws its series."""

    LINES = enum.auto()
    STACKED = enum.auto()
    """Areas on top of each other: series that add up to something."""
    BARS = enum.auto()
    """One bar for each interval: what happened in it."""
    NUMBER = enum.auto()
    """The last value, large."""
    RANKING = enum.auto()
    """The last value of each series, as a bar beside its name."""


@dataclass(frozen=True)
class Query:
    """An expression, and what its series are called (`{{label}}` stands for a label's value)."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One question and its answer."""

    title: str
    """The question."""
    description: str
    """What the numbers are and how to read them."""
    unit: str
    """Grafana's name of it, or `suffix:` and a text."""
    alert: str
    """The alert that watches it."""
    queries: Sequence[Query]
    look: Look = Look.LINES
    minimum: float | None = None
    maximum: float | None = None
    limit: float | None = None
    """Where the alert begins: drawn as a red line, or colours a number."""
    width: int = 8
    """In columns of the grid, which has 24."""


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Dashboard:
    """A page."""

    uid: str
    """Fixed, so that links to it stay."""
    title: str
    description: str
    rows: Sequence[Row]
    has_run: bool
    """Whether it is about the one run that its variables choose."""
