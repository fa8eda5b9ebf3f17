"""Warnings of this package's logging become events."""

from __future__ import annotations

import logging

from cclm.events import Journal, Warned

_PACKAGE = "cclm"
"""The logger above all of ours."""


class WarningsHandler(logging.Handler):
    """Emits a `Warned` for each warning.

    A record can bring an event that says more: `logger.warning(event.text, extra={"event": event})`.
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def install(self) -> None:
        """Replace the handler of an earlier run of this process: warnings belong to the run that goes on."""
        logger = logging.getLogger(_PACKAGE)
        for handler in [handler for handler in logger.handlers if isinstance(handler, WarningsHandler)]:
            logger.removeHandler(handler)
        logger.addHandler(self)

    def remove(self) -> None:
        logging.getLogger(_PACKAGE).removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        self._journal.emit(event if isinstance(event, Warned) else Warned(self.format(record)))
