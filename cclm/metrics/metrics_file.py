"""`metrics.jsonl`: the numbers of a run, one JSON object a line, each with its `step`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cclm.events import Evaluated, Event, Interval, Journal, StepDone
from cclm.metrics.lines_file import LinesFile
from cclm.metrics.tables import mean_rows, scores_as_json

METRICS = "metrics.jsonl"


class MetricsFile:
    """Appends the numbers of logging intervals and evaluations to a file."""

    def __init__(self, path: Path, journal: Journal) -> None:
        self._file = LinesFile(path, journal)

    def handle(self, event: Event) -> None:
        if isinstance(event, StepDone):  # too frequent to try a full disk again
            return
        values = values_of(event)
        self._file.append("" if values is None else json.dumps(values, ensure_ascii=False) + "\n")

    def forget_after(self, step: int, again: str | None = None) -> None:
        """Drop lines about later steps: a run that was cut off wrote them, and the run that goes on writes them again.

        Args:
            again: key of the lines that are written again for `step` itself.
        """
        path = self._file.path
        if not path.exists():
            return
        text = path.read_text(encoding="utf-8", errors="replace")
        kept = "".join(f"{line}\n" for line in text.splitlines() if _is_until(line, step, again))
        if kept == text:  # nothing to write, so that a run can go on on a full disk
            return
        shorter = path.with_name(f".{METRICS}.tmp")  # a process that is killed here must not lose all lines
        shorter.write_text(kept, encoding="utf-8")
        shorter.replace(path)

    def close(self) -> None:
        self._file.close()


def values_of(event: Event) -> dict[str, Any] | None:
    """The line of an event; None for events without one. `step` is the number of outer steps done."""
    match event:
        case Interval():
            flops = {
                "model_flops_per_second": event.model_flops_per_second,
                "model_flops_utilization": event.model_flops_utilization,
            }
            return {
                "step": event.step,
                "losses": dict(event.losses),
                "lr": event.lr,
                "grad_norms": dict(event.grad_norms),
                "learnt": dict(event.learnt),
                "images_per_second": event.images_per_second,
                "texts_per_second": event.texts_per_second,
                **{key: value for key, value in flops.items() if value is not None},
                "seconds": event.seconds,
                "skipped": dict(event.skipped),
                **({"skipped_updates": dict(event.skipped_updates)} if event.skipped_updates else {}),
            }
        case Evaluated(split="retrieval"):
            return {"step": event.step, "retrieval": {**event.scores, **mean_rows(event.scores)}}
        case Evaluated():
            return {"step": event.step, event.split: scores_as_json(event.scores, event.examples)}
    return None


def _is_until(line: str, step: int, again: str | None) -> bool:
    try:
        values = json.loads(line)
        return bool(values["step"] < step or (values["step"] == step and again not in values))
    except (ValueError, KeyError):  # cut off when the run was
        return False
