"""Where a run's numbers go: `metrics.jsonl`, `log.txt`, the console, and a progress bar on a terminal.

Only the first process reports. What the data side warns of (skipped records) comes from all processes: each keeps its
own warnings in `log.txt` and shows them on stderr.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import datetime
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
        self._metrics = output_dir / METRICS
        self._log = output_dir / LOG
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
        self._keep(text)
        self._show(text, sys.stdout)

    def warn(self, text: str) -> None:
        """Keep a warning in `log.txt`, and show it on stderr unless the program's own logging does."""
        try:
            self._keep(text)
        except OSError as error:  # a full disk, say: no reason to stop here, the next checkpoint will
            text = f"{text} (not kept in {self._log}: {error})"
        if not logging.getLogger().handlers:
            self._show(text, sys.stderr)

    def _keep(self, text: str) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}\n")

    def _show(self, text: str, stream: TextIO) -> None:
        if self._bar is not None:
            self._bar.clear()
        print(text, file=stream, flush=True)

    def forget_after(self, step: int, again: str | None = None) -> None:
        """Drop lines of `metrics.jsonl` about later steps: a run that was cut off wrote them, and makes them again.

        Args:
            again: key of what is made again for `step` itself.
        """
        if self._active and self._metrics.exists():
            lines = self._metrics.read_text(encoding="utf-8").splitlines()
            kept = "".join(f"{line}\n" for line in lines if _is_until(line, step, again))
            shorter = self._metrics.with_name(f".{METRICS}.tmp")  # whoever is killed here must not lose all lines
            shorter.write_text(kept, encoding="utf-8")
            shorter.replace(self._metrics)

    def line(self, values: Mapping[str, Any]) -> None:
        """Append `values`, JSON, as a line of `metrics.jsonl`; `values["step"]` is the number of outer steps done."""
        if self._active:
            with self._metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values, ensure_ascii=False) + "\n")

    def interval(self, values: Mapping[str, Any]) -> None:
        """One logging interval: a line of `metrics.jsonl` and the same for the eye."""
        self.line(values)
        self.say(interval_text(values, self._total))

    def step(self) -> None:
        """One more outer step is done."""
        if self._bar is not None:
            self._bar.update()

    def close(self) -> None:
        """Take the bar away, and hear no more warnings."""
        logging.getLogger(_PACKAGE).removeHandler(self._warnings)
        if self._bar is not None:
            self._bar.close()
            self._bar = None


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
