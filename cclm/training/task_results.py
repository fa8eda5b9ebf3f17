"""The results of a downstream task's tests: the table, `results.json` and predictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cclm import distributed
from cclm.data.annotations.read import AnnotatedConfig, Split
from cclm.events import Evaluated, Journal
from cclm.metrics.measured import Measured
from cclm.metrics.results import as_json, examples_of, scores_of, write_predictions, write_results
from cclm.training.identity import FEW_SHOT
from cclm.training.resume import Start

_PROTOCOL = (
    "few-shot, as published: trained on {shots} of {language}, validated on the test set of that language; the figure "
    "is that of the best epoch on it"
)


def publish_results(
    config: AnnotatedConfig,
    split: Split,
    measured: Mapping[str, Measured],
    model: Start,
    journal: Journal,
    folder: Path,
) -> None:
    """Report the scores of a split; the first process writes results and predictions.

    Args:
        split: `test` or `translated_test`.
        model: the checkpoint that was measured.
        folder: of the files.
    """
    protocol = _protocol_of(model)
    journal.emit(Evaluated(split, model.step, scores_of(measured), examples_of(measured), protocol))
    if distributed.rank() == 0:
        values = {"task": config.task, "step": model.step, "checkpoint": model.source, "protocol": protocol}
        values["validation"] = model.state["validation"]
        write_results(folder, values | {split: as_json(measured)})
        write_predictions(folder, split, measured)


def _protocol_of(model: Start) -> str | None:
    """How a few-shot model was chosen; None for others, and for weights that do not say."""
    few_shot = model.state.get("identity", {}).get(FEW_SHOT)
    if few_shot is None:
        return None
    language, shots = few_shot.split(",")
    return _PROTOCOL.format(shots="the few-shot file" if shots == "None" else f"{shots} shots", language=language)
