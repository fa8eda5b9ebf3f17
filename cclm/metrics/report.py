"""Where a run's numbers go: `metrics.jsonl`, `log.txt`, the console, and a progress bar on a terminal.

Only the first process reports. What the data side warns of (skipped records) comes from all processes: each keeps its
own warnings in `log.txt` and shows them on stderr.

A full disk ends no run here: the saves that it makes fail do, when there are too many.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Mapping
from datetime import datetime
from io import FileIO
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

METRICS = "metrics.jsonl"
LOG = "log.txt"
_PACKAGE = "cclm"
"""The logger above all of ours."""


class Report:
    """Files and console of one run.

    Args:
        output_dir: folder of the files; created.
        active: whether this process reports.
        total: outer steps of the run, for the progress bar; 0 shows none.
        start: outer steps done before.
    """

    def __init__(self, output_dir: Path, *, active: bool, total: int = 0, start: int = 0) -> None:
        self._active = active
        self._total = total
        self._bar: tqdm | None = None
        self._metrics = _Lines(output_dir / METRICS)
        self._log = _Lines(output_dir / LOG)
        self._lock = threading.Lock()  # threads that read for us warn
        self._warnings = _Warnings(self)
        self._warnings.replace_earlier()
        if not active:
            return
        output_dir.mkdir(parents=True, exist_ok=True)
        if total and sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, smoothing=0.05)

    def say(self, text: str) -> None:
        """Show text, and keep it with the time in `log.txt`."""
        if not self._active:
            return
        self._keep(self._log, _stamped(text))
        self._show(text, sys.stdout)

    def warn(self, text: str) -> None:
        """Keep a warning in `log.txt`, and show it on stderr unless the program's own logging does."""
        self._keep(self._log, _stamped(text))
        if not logging.getLogger().handlers:
            self._show(text, sys.stderr)

    def _keep(self, file: _Lines, lines: str) -> None:
        """Add to a file. Both are tried each time: the one that was refused before may be taken now."""
        with self._lock:
            file.add(lines)
            for each in (self._metrics, self._log):
                if problem := each.write():
                    self._log.add(_stamped(problem))
                    self._show(problem, sys.stderr)

    def _show(self, text: str, stream: TextIO) -> None:
        if self._bar is not None:
            self._bar.clear()
        try:
            print(text, file=stream, flush=True)
        except BrokenPipeError:
            raise
        except OSError:  # sent to a file on the same full disk, or a terminal that is gone; `log.txt` has it, or will
            pass

    def forget_after(self, step: int, again: str | None = None) -> None:
        """Drop lines of `metrics.jsonl` about later steps: a run that was cut off wrote them, and makes them again.

        Args:
            again: key of what is made again for `step` itself.
        """
        path = self._metrics.path
        if self._active and path.exists():
            there = path.read_text(encoding="utf-8", errors="replace")
            kept = "".join(f"{line}\n" for line in there.splitlines() if _is_until(line, step, again))
            if kept == there:  # nothing to write, so that a run can go on on a full disk
                return
            shorter = path.with_name(f".{METRICS}.tmp")  # whoever is killed here must not lose all lines
            shorter.write_text(kept, encoding="utf-8")
            shorter.replace(path)

    def line(self, values: Mapping[str, Any]) -> None:
        """Append `values`, JSON, as a line of `metrics.jsonl`; `values["step"]` is the number of outer steps done."""
        if self._active:
            self._keep(self._metrics, json.dumps(values, ensure_ascii=False) + "\n")

    def interval(self, values: Mapping[str, Any]) -> None:
        """One logging interval: a line of `metrics.jsonl` and the same for the eye."""
        self.line(values)
        self.say(interval_text(values, self._total))

    def step(self) -> None:
        """One more outer step is done."""
        if self._bar is not None:
            self._bar.update()

    def close(self) -> None:
        """Take the bar away, hear no more warnings, and tell what no disk has taken."""
        logging.getLogger(_PACKAGE).removeHandler(self._warnings)
        for file in (self._metrics, self._log):
            file.write()
            if file.waiting:
                self._show(f"{file.path} lacks its last {file.waiting} lines: it never took them", sys.stderr)
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Lines:
    """A file that grows by lines. Those that it does not take wait in memory, in order, and are tried again later."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting = b""
        self._is_refused = False

    @property
    def waiting(self) -> int:
        """Number of lines that are not in the file yet."""
        return self._waiting.count(b"\n")

    def add(self, lines: str) -> None:
        """Take lines in; `write` brings them to the file."""
        self._waiting += lines.encode("utf-8", "backslashreplace")

    def write(self) -> str | None:
        """Bring what waits to the file; returns, once for all that is refused in a row, why it cannot be done."""
        if not self._waiting:
            return None
        try:
            with self.path.open("ab", buffering=0) as file:
                _append(file, self._waiting)
        except OSError as error:
            is_known, self._is_refused = self._is_refused, True
            reason = error.strerror or error
            return None if is_known else f"{self.path} takes no more ({reason}); its lines wait in memory until it does"
        self._waiting, self._is_refused = b"", False
        return None


def _append(file: FileIO, data: bytes) -> None:
    """Add all of `data` or nothing: half a line of JSON, with others behind it, is one that readers stumble over."""
    rest = data
    try:
        while rest:
            rest = rest[file.write(rest) :]  # a disk that becomes full takes a part
    except OSError:
        if rest != data:
            file.truncate(file.tell() - (len(data) - len(rest)))
        raise


def _stamped(text: str) -> str:
    return f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}\n"


class _Warnings(logging.Handler):
    """Hands this package's warnings to a report."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def replace_earlier(self) -> None:
        """Become the only one: warnings belong to the run that goes on, not to an earlier one of this process."""
        logger = logging.getLogger(_PACKAGE)
        for handler in [handler for handler in logger.handlers if isinstance(handler, _Warnings)]:
            logger.removeHandler(handler)
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._report.warn(self.format(record))


def interval_text(values: Mapping[str, Any], total: int) -> str:
    """One line of the console: step, rates, and the losses of each kind of batch."""
    width = len(str(total))
    parts = [f"step {values['step']:{width}d}/{total}", f"lr {values['lr']:.2e}"]
    by_kind: dict[str, list[str]] = {}
    for key, value in values["losses"].items():
        kind, _, name = key.partition("/")
        by_kind.setdefault(kind, []).append(f"{name.removeprefix('loss_')} {value:.3f}")
    parts += [f"{kind}: {' '.join(losses)}" for kind, losses in by_kind.items()]
    parts += [f"{name} {value:.4f}" for name, value in values["learnt"].items()]
    parts.append(f"grad {values['grad_norm']:.2f}")
    parts.append(f"{values['images_per_second']:.0f} images/s {values['texts_per_second']:.0f} texts/s")
    if values["skipped"]:
        parts.append(f"skipped {sum(values['skipped'].values())}")
    return " | ".join(parts)


def retrieval_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Rows of recalls in percent, columns aligned.

    Args:
        scores: row name (a language, or a mean) -> `txt_r1`, `txt_r5`, `txt_r10` (image to text), `img_r1` ...,
            `r_mean`.
    """
    columns = [f"{side}_r{k}" for side in ("txt", "img") for k in (1, 5, 10)] + ["r_mean"]
    first = max(len("language"), *(len(name) for name in scores))
    lines = [
        f"{'':{first}}  {'image to text':^23}  {'text to image':^23}",
        f"{'language':{first}}" + "".join(f"  {title:>7}" for title in ["R@1", "R@5", "R@10"] * 2 + ["mean"]),
    ]
    lines += [
        f"{name:{first}}" + "".join(f"  {row[column]:7.2f}" for column in columns) for name, row in scores.items()
    ]
    return "\n".join(line.rstrip() for line in lines)


def mean_rows(scores: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The mean over all languages and, where English is one of several, over the others: row name -> metrics."""
    rows = {"mean": list(scores.values())}
    others = [row for language, row in scores.items() if language != "en"]
    if others and len(others) < len(scores):
        rows["mean without en"] = others
    return {name: {metric: sum(row[metric] for row in of) / len(of) for metric in of[0]} for name, of in rows.items()}


def _is_until(line: str, step: int, again: str | None) -> bool:
    try:
        values = json.loads(line)
        return values["step"] < step or (values["step"] == step and again not in values)
    except (ValueError, KeyError):  # cut off when the run was
        return False
