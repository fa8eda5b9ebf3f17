"""What happens in a run, as typed events.

Whoever does something emits an event; sinks decide what becomes of it: a line on the console and in `log.txt`, a line
of `metrics.jsonl`, a metric of Prometheus. So a sentence is written in one place only, and whatever is told can be
counted. Nothing but the standard library is imported here: the launcher, which must not import torch, emits some too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Event:
    """Anything that happens in a run."""


@dataclass(frozen=True)
class Notice(Event):
    """A sentence for whoever reads the log, about something that no program needs to count."""

    text: str


class Sink(Protocol):
    """Does something about events; ignores those that it does not know."""

    def handle(self, event: Event) -> None: ...


@dataclass
class Journal:
    """Hands each event to every sink, in order, in the thread that emits it."""

    sinks: list[Sink] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        for sink in self.sinks:
            sink.handle(event)


# ------------------------------------------------------------------------------------------------------------ training


@dataclass(frozen=True)
class Interval(Event):
    """The means of one logging interval, over all processes."""

    step: int
    """Outer steps done."""
    losses: Mapping[str, float]
    """By "kind/name": the mean of each loss over the updates of its kind, not weighted."""
    lr: float
    """Of the first parameter group, in the last step."""
    grad_norms: Mapping[str, float]
    """By kind of batch: the mean norm of all gradients before clipping."""
    learnt: Mapping[str, float]
    """Parameters that are single numbers (the temperature), by name."""
    images_per_second: float
    texts_per_second: float
    seconds: float
    """Length of the interval."""
    skipped: Mapping[str, int]
    """Broken records of the run so far, by kind; kinds without any are left out."""


@dataclass(frozen=True)
class Saved(Event):
    """A checkpoint is whole in one place."""

    step: int
    place: str
    bytes: int
    seconds: float
    """From the copy to memory until it was durable."""
    held_up_seconds: float
    """How long training waited for the copy."""


@dataclass(frozen=True)
class SaveFailed(Event):
    """A checkpoint could not be written to one place; a later one may be."""

    step: int
    place: str
    reason: str
    failures_in_a_row: int
    allowed: int
    """So many in a row end the run."""


@dataclass(frozen=True)
class Waited(Event):
    """Training stood still."""

    step: int
    seconds: float
    reason: str


# ------------------------------------------------------------------------------------------------------------ launcher


@dataclass(frozen=True)
class Restarted(Event):
    """The launcher starts the processes of its node again."""

    cause: str
    """A name of `cclm.launch.causes.Cause`."""
    restarts_left: int


@dataclass(frozen=True)
class Ended(Event):
    """The run, or this node's part of it, is over."""

    exit_code: int
    cause: str | None
    """A name of `cclm.launch.causes.Cause`; None after success."""
    sentence: str
    """Why, and what that means for who started it."""
