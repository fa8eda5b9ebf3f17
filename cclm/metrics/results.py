"""Results of a task by split and language: `results.json`, and predictions as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cclm.metrics.measured import Measured
from cclm.metrics.tables import scores_as_json

RESULTS = "results.json"
PREDICTIONS = "predictions"


def as_json(measured: Mapping[str, Measured]) -> dict[str, Any]:
    """A split: languages, their mean, and their mean without English where English is one of several."""
    return scores_as_json(scores_of(measured), examples_of(measured))


def scores_of(measured: Mapping[str, Measured]) -> dict[str, Mapping[str, float]]:
    """language -> metrics by name, in percent"""
    return {language: each.metrics for language, each in measured.items()}


def examples_of(measured: Mapping[str, Measured]) -> dict[str, int]:
    """language -> entries, or queries of both directions"""
    return {language: each.examples for language, each in measured.items()}


def write_results(folder: Path, values: Mapping[str, Any]) -> None:
    """Write `results.json`, whole or not at all.

    A standalone evaluation adds its numbers to what the folder holds of the same model: its validation, other splits.

    Args:
        values: task, step, checkpoint, protocol, validation (None: a standalone evaluation), and split -> `as_json`.
    """
    if values["validation"] is None:
        earlier = _earlier(folder / RESULTS)
        if all(earlier.get(key) == values[key] for key in ("task", "checkpoint")):
            known = {key: value for key, value in values.items() if value is not None}
            values = {**values, **earlier, **known, "protocol": values["protocol"]}
    temporary = folder / f".{RESULTS}.tmp"
    temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(folder / RESULTS)


def _earlier(path: Path) -> dict[str, Any]:
    """What the file holds; nothing if it is absent or not ours."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_predictions(folder: Path, split: str, measured: Mapping[str, Measured]) -> None:
    """Write `predictions/<split>-<language>.jsonl`, one line a query or entry."""
    (folder / PREDICTIONS).mkdir(parents=True, exist_ok=True)
    for language, each in measured.items():
        lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in each.predictions)
        # Half a surrogate pair, which JSON can hold and UTF-8 cannot, is written as JSON's own escape.
        path = folder / PREDICTIONS / f"{split}-{language}.jsonl"
        path.write_text(lines, encoding="utf-8", errors="backslashreplace")
