"""What a run prints: sentences on stdout, warnings on stderr."""

from __future__ import annotations

import logging
import sys

from cclm.events import Event, FileRefused, LinesLost, Warned
from cclm.metrics.sentences import sentence


class Console:
    """Prints the sentence of each event."""

    def handle(self, event: Event) -> None:
        text = sentence(event)
        if text is None or (isinstance(event, Warned) and logging.getLogger().handlers):
            return  # a program that has set up logging shows its warnings itself
        stream = sys.stderr if isinstance(event, Warned | FileRefused | LinesLost) else sys.stdout
        try:
            print(text, file=stream, flush=True)
        except BrokenPipeError:
            raise
        except OSError:  # sent to a file on a full disk, or to a terminal that is gone; `log.txt` has it, or will
            pass
