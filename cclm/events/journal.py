"""What every event is, sentences for the log, and who hands events to the sinks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Event:
    """Anything that happens in a run."""


@dataclass(frozen=True)
class Notice(Event):
    """A sentence for whoever reads the log, about something that no program needs to count."""

    text: str


@dataclass(frozen=True)
class Warned(Event):
    """A warning of this package's logging.

    Every process has a journal. Most events say the same in all of them, so the sinks of the first process alone write
    them down. Warnings differ: every process shows and logs its own.
    """

    text: str


@dataclass(frozen=True)
class RecordSkipped(Warned):
    """A broken record was left out. Its text names the file and the reason.

    The data side logs it: `logger.warning(event.text, extra={"event": event})`.
    """

    kind: str
    """Kind of batch: `images`, `regions`, ..."""
    reason: str
    """Kind of fault. There are few kinds, so they can be counted."""


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
