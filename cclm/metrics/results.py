"""Results of a task by split and language: the table, `results.json`, and predictions as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cclm.metrics.measured import Measured
from cclm.metrics.report import mean_rows, retrieval_table

RESULTS = "results.json"
PREDICTIONS = "predictions"


def table(measured: Mapping[str, Measured]) -> str:
    """One row a language, and the means: recalls for retrieval, else the only metric with the number of entries."""
    rows = {language: each.metrics for language, each in measured.items()}
    rows |= mean_rows(rows)
    if "r_mean" in next(iter(rows.values())):
        return retrieval_table(rows)
    first = max(len("language"), *map(len, rows))
    names = list(next(iter(rows.values())))
    lines = [f"{'language':{first}}" + "".join(f"  {name:>9}" for name in names) + f"  {'examples':>9}"]
    for language, row in rows.items():
        count = f"{measured[language].examples:9d}" if language in measured else ""
        lines.append((f"{language:{first}}" + "".join(f"  {row[name]:9.2f}" for name in names) + f"  {count}").rstrip())
    return "\n".join(lines)


def as_json(measured: Mapping[str, Measured]) -> dict[str, Any]:
    """A split: languages, their mean, and their mean without English where English is one of several."""
    rows = {language: each.metrics for language, each in measured.items()}
    languages = {language: {**each.metrics, "examples": each.examples} for language, each in measured.items()}
    return {"languages": languages, **{name.replace(" ", "_"): row for name, row in mean_rows(rows).items()}}


def write_results(folder: Path, values: Mapping[str, Any]) -> None:
    """`results.json`, whole or not at all.

    What an evaluation alone measures is added to what the folder holds of the same model: its validation, other splits.
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
    """`predictions/<split>-<language>.jsonl`, one line a query or entry."""
    (folder / PREDICTIONS).mkdir(parents=True, exist_ok=True)
    for language, each in measured.items():
        lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in each.predictions)
        # Half a surrogate pair, which JSON can hold and UTF-8 cannot, is written as JSON's own escape.
        path = folder / PREDICTIONS / f"{split}-{language}.jsonl"
        path.write_text(lines, encoding="utf-8", errors="backslashreplace")
