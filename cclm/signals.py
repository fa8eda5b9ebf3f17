"""SIGTERM and Ctrl-C while something has to come to its end first."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def signals_noted() -> Iterator[list[int]]:
    """SIGTERM and SIGINT that come are put into the list, and do nothing else.

    Outside the main thread, where Python hands out no signals, the list stays empty.
    """
    received: list[int] = []
    previous = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError):  # not the main thread
            previous[number] = signal.signal(number, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
