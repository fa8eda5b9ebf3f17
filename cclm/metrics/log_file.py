"""`log.txt`: what happens in a run, as sentences with the time."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from cclm.events import Event, Journal, LinesLost, StepDone
from cclm.metrics.lines_file import LinesFile
from cclm.metrics.sentences import sentence

LOG = "log.txt"

_RESUMED = re.compile(r"^\d\d\d\d-\d\d-\S+ (?:\w+: )?resuming after step (\d+):", re.MULTILINE)
"""What `sentence` says of a start that goes on, behind the time of the line."""


class LogFile:
    """Appends the sentence of each event to a file."""

    def __init__(self, path: Path, journal: Journal) -> None:
        self._file = LinesFile(path, journal)

    def handle(self, event: Event) -> None:
        if isinstance(event, StepDone | LinesLost):  # too frequent to try a full disk again; not meant for the file
            return
        text = sentence(event)
        time = datetime.now().astimezone().isoformat(timespec="seconds")
        self._file.append("" if text is None else f"{time} {text}\n")

    def close(self) -> None:
        self._file.close()


def resumed_steps(log: str) -> list[int]:
    """The step after which each start went on that began from a checkpoint, in the order of the log."""
    return [int(step) for step in _RESUMED.findall(log)]
