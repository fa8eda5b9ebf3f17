"""A sink of events that writes them as sentences: for the console, `log.txt` and tests."""

from __future__ import annotations

from collections.abc import Callable

from cclm.events import Event, Notice, Saved, SaveFailed, Waited


def sentence(event: Event) -> str | None:
    """What the log says about an event; None for one that it does not mention."""
    match event:
        case Notice(text):
            return text
        case Saved():
            return (
                f"saved step {event.step} to {event.place}: {event.bytes / 1e6:.1f} MB in {event.seconds:.1f} s, "
                f"training held up for {event.held_up_seconds:.2f} s"
            )
        case SaveFailed():
            return (
                f"step {event.step} could not be saved to {event.place} ({event.reason}); "
                f"failure {event.failures_in_a_row} of {event.allowed} in a row"
            )
        case Waited():
            return f"training waited {event.seconds:.1f} s at step {event.step} for {event.reason}"
    return None


class Sentences:
    """Hands the sentence of each event to a function such as `print` or `Report.say`."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show

    def handle(self, event: Event) -> None:
        text = sentence(event)
        if text is not None:
            self._show(text)
