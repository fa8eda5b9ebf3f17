"""Where the events of a run go: the console, and in the run's folder `log.txt`, `metrics.jsonl` and `status.json`.

A standalone evaluation has `evaluation.json` in place of `status.json`.

Only the first process reports. Warnings of the package (skipped records) are an exception: they come from all
processes, and each process keeps its own in `log.txt` and shows them on stderr.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from cclm.events import Event, FileRefused, Journal, LinesLost, Sink, Warned
from cclm.metrics.console import Console
from cclm.metrics.early_events import take_early_events
from cclm.metrics.log_file import LOG, LogFile
from cclm.metrics.metrics_file import METRICS, MetricsFile
from cclm.metrics.package_warnings import WarningsHandler
from cclm.metrics.progress_bar import ProgressBar
from cclm.metrics.prometheus import sink_of_process
from cclm.metrics.status_file import EVALUATION, STATUS, StatusFile
from cclm.metrics.tensorboard_files import TensorBoard


def open_journal(*, is_first: bool) -> Journal:
    """A journal that prints, for the time before the run's folder is known.

    Args:
        is_first: whether this is the first process of the run.
    """
    sinks: list[Sink] = [Console() if is_first else OwnWarnings(Console())]
    prometheus = sink_of_process()
    return Journal(sinks if prometheus is None else [*sinks, prometheus])


class Report:
    """Adds the files of a run, and a progress bar on a terminal, to the sinks of a journal until it is closed.

    Args:
        journal: from `open_journal`.
        output_dir: folder of the files; created.
        is_first: whether this is the first process of the run.
        total: outer steps of the run; 0: nothing is trained, so there is no progress bar, and `evaluation.json` takes
            the place of `status.json`.
        start: outer steps done before.
        log: name of the log file.
    """

    def __init__(
        self, journal: Journal, output_dir: Path, *, is_first: bool, total: int = 0, start: int = 0, log: str = LOG
    ) -> None:
        self._journal, self._folder, self._is_first = journal, output_dir, is_first
        self._tensorboard: TensorBoard | None = None
        self._log = LogFile(output_dir / log, journal)
        self._metrics: MetricsFile | None = None
        self._status: StatusFile | None = None
        self._bar: ProgressBar | None = None
        self._sinks: list[Sink] = [OwnWarnings(self._log)]
        if is_first:
            output_dir.mkdir(parents=True, exist_ok=True)
            self._metrics = MetricsFile(output_dir / METRICS, journal)
            self._sinks = [self._metrics, self._log]
            self._status = StatusFile(output_dir / (STATUS if total else EVALUATION), journal)
            self._sinks.append(self._status)
            if total and sys.stderr.isatty():
                self._bar = ProgressBar(total, start)
                self._sinks.append(self._bar)
        journal.sinks[:0] = self._sinks
        self._warnings = WarningsHandler(journal)
        self._warnings.install()
        for event in take_early_events():
            for sink in self._sinks:
                sink.handle(event)

    def add_tensorboard(self, folder: str, start: int | None) -> None:
        """Write curves for TensorBoard, too.

        Args:
            folder: of the event files, within the run's folder.
            start: as in TensorBoard.

        Raises:
            UserError: the package is not installed.
        """
        if self._is_first:
            self._tensorboard = TensorBoard(self._folder / folder, start, self._journal)
            self._sinks.append(self._tensorboard)
            self._journal.sinks.append(self._tensorboard)

    def forget_after(self, step: int, again: str | None = None) -> None:
        """As `MetricsFile.forget_after`, on the first process."""
        if self._metrics is not None:
            self._metrics.forget_after(step, again)

    def close(self) -> None:
        """Write what is left, say what no disk has taken, and remove the sinks; later warnings are not reported."""
        self._warnings.remove()
        if self._status is not None:
            self._status.close()
        if self._metrics is not None:
            self._metrics.close()
        self._log.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._bar is not None:
            self._bar.close()
        self._journal.sinks = [sink for sink in self._journal.sinks if sink not in self._sinks]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._status is not None:
            self._status.fail(error)
        self.close()


class OwnWarnings:
    """Passes on only what each process reports for itself: warnings, and trouble with its own log file."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def handle(self, event: Event) -> None:
        if isinstance(event, Warned | FileRefused | LinesLost):
            self._sink.handle(event)
