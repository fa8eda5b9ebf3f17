"""Scores of a split as a table for the eye and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Scores = Mapping[str, Mapping[str, float]]
"""Row name (a language, or a mean) -> metrics by name, in percent."""


def mean_rows(scores: Scores) -> dict[str, dict[str, float]]:
    """The mean over all languages and, where English is one of several, over the others: row name -> metrics."""
    rows = {"mean": list(scores.values())}
    others = [row for language, row in scores.items() if language != "en"]
    if others and len(others) < len(scores):
        rows["mean without en"] = others
    return {name: {metric: sum(row[metric] for row in of) / len(of) for metric in of[0]} for name, of in rows.items()}


def main_metric(row: Mapping[str, float]) -> str:
    """The name of the metric that stands for a whole row: mean recall for retrieval, the only one of other tasks."""
    return "r_mean" if "r_mean" in row else next(iter(row))


def score_table(scores: Scores, examples: Mapping[str, int]) -> str:
    """One row a language, and the means. Recalls for retrieval; for other tasks their metric and the number of entries.

    Args:
        examples: language -> number of entries; not shown for retrieval.
    """
    rows = {**scores, **mean_rows(scores)}
    if "r_mean" in next(iter(rows.values())):
        return retrieval_table(rows)
    first = max(len("language"), *map(len, rows))
    names = list(next(iter(rows.values())))
    lines = [f"{'language':{first}}" + "".join(f"  {name:>9}" for name in names) + f"  {'examples':>9}"]
    for language, row in rows.items():
        count = f"{examples[language]:9d}" if language in examples else ""
        lines.append((f"{language:{first}}" + "".join(f"  {row[name]:9.2f}" for name in names) + f"  {count}").rstrip())
    return "\n".join(lines)


def retrieval_table(scores: Scores) -> str:
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


def scores_as_json(scores: Scores, examples: Mapping[str, int]) -> dict[str, Any]:
    """Languages with their number of examples, and the means of `mean_rows`."""
    languages = {language: {**row, "examples": examples[language]} for language, row in scores.items()}
    return {"languages": languages, **{name.replace(" ", "_"): row for name, row in mean_rows(scores).items()}}
