"""The progress bar of a training, on a terminal."""

from __future__ import annotations

from typing import Never

from tqdm import tqdm

from cclm.events import Event, StepDone


class ProgressBar:
    """Counts outer steps. Stands before the console among the sinks, since it makes room for what that prints.

    Args:
        total: outer steps of the run.
        start: outer steps done before.
    """

    def __init__(self, total: int, start: int) -> None:
        self._bar: tqdm[Never] = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, smoothing=0.05)

    def handle(self, event: Event) -> None:
        if isinstance(event, StepDone):
            self._bar.update()
        else:
            self._bar.clear()

    def close(self) -> None:
        self._bar.close()
