"""Pauses between tries: the longer, the more starts in a row got no further. No torch.

Training operators start a failed pod again at once, without end. The pauses keep a run that fails from wearing out the
stores and the cluster, and give what is broken time to be mended. Starts that follow upon no failure do not wait.
"""

from __future__ import annotations

import random
import time

from cclm.errors import UserError
from cclm.events import Journal, Notice
from cclm.launch.attempts import Attempts
from cclm.launch.store_calls import interruptible

_FIRST_SECONDS = 10.0
_LONGEST_SECONDS = 300.0
_JITTER = 0.2
"""Part of a pause by which it is made longer or shorter, so that many runs do not start again at the same moment."""


def pause_seconds(starts: int) -> float:
    """How long to wait before the next start.

    Args:
        starts: that got no further, in a row. The first one may be tried again at once.
    """
    if starts < 2:
        return 0.0
    return float(min(_FIRST_SECONDS * 2.0 ** (starts - 2), _LONGEST_SECONDS))


class Pauses:
    """Waits before starts, and says so.

    Args:
        journal: gets a `Notice` of each pause.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._starts = 0
        """Of this launch, for a command that keeps no count in a folder."""

    def before_start(self, attempts: Attempts | None) -> None:
        """Wait as long as the starts so far ask for. Signals interrupt it.

        Args:
            attempts: the count of starts; None if the command has no place for it.
        """
        starts = self._starts if attempts is None else self._counted(attempts)
        self._starts += 1
        if not (seconds := pause_seconds(starts)):
            return
        seconds *= random.uniform(1 - _JITTER, 1 + _JITTER)
        self._journal.emit(Notice(f"{starts} starts in a row got no further; the next one follows in {seconds:.0f} s"))
        time.sleep(seconds)

    def _counted(self, attempts: Attempts) -> int:
        try:
            starts = interruptible(attempts.so_far)
        except (OSError, UserError):
            return 0  # the start itself asks the store again, and says what is wrong
        return 0 if starts >= attempts.limit else starts  # there will be no start to wait for
