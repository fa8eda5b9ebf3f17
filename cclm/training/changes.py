"""What differs between a checkpoint and the run that goes on from it, and is reported: settings and initial weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from cclm.config.finetune import FinetuneConfig
from cclm.config.model import ModelConfig
from cclm.config.pretrain import PretrainConfig
from cclm.events import SettingsChanged, WeightsIgnored
from cclm.training.resume import Start

INITIAL = "initial_weights"
"""Key of a checkpoint's state that holds what the run began with (`initial_weights`)."""

NOT_REPORTED = {
    "output_dir", "output_hdfs", "tensorboard", "checkpoints", "index_dir", "num_workers", "log_every", "save_every",
    "evaluation.batch_size", "evaluation.text_batch_size", "weights",
}  # fmt: skip
"""Settings, by name or last part, that change nothing about what is learnt. Initial weights have their own event."""

_LONGEST = 80
"""Values of more characters are not shown."""


def initial_weights(start: Start | None, model: ModelConfig, checkpoint: str | None = None) -> dict[str, str]:
    """The weights that a run began with, by option or setting. They are kept in all of its checkpoints.

    Args:
        checkpoint: what `--checkpoint` names.
    """
    if start is None:
        return _named(model.model_dump(mode="json"), checkpoint)
    if INITIAL in start.state:
        return dict(start.state[INITIAL])
    return _named(start.state.get("config", {}).get("model", {}), None)  # older checkpoints do not hold --checkpoint


def settings_of(
    config: PretrainConfig | FinetuneConfig, start: Start | None, checkpoint: str | None = None
) -> dict[str, Any]:
    """The settings of a run, for the state of its checkpoints."""
    return {"config": config.model_dump(mode="json"), INITIAL: initial_weights(start, config.model, checkpoint)}


def changes(
    start: Start | None, config: PretrainConfig | FinetuneConfig, checkpoint: str | None = None
) -> Iterator[SettingsChanged | WeightsIgnored]:
    """Events on what a run that goes on does otherwise than its checkpoint, and which weights it does not begin with.

    Args:
        checkpoint: what `--checkpoint` names now.
    """
    if start is None:
        return
    began = initial_weights(start, config.model)
    for name, path in initial_weights(None, config.model, checkpoint).items():
        if began.get(name) != path:
            yield WeightsIgnored(name, path, start.source)
    if differences := tuple(_changed_settings(start.state.get("config", {}), config)):
        yield SettingsChanged(start.step, differences)


def _named(model: Mapping[str, Any], checkpoint: str | None) -> dict[str, str]:
    """The weights that are used. Weights of the whole model take precedence over those of its encoders."""
    named: dict[str, str | None] = {"--checkpoint": checkpoint, "model.weights": model.get("weights")}
    for name, path in named.items():
        if path is not None:
            return {name: path.rstrip("/")}
    parts: dict[str, str | None] = {part: model.get(part, {}).get("weights") for part in ("vision", "text")}
    return {f"model.{part}.weights": path.rstrip("/") for part, path in parts.items() if path is not None}


def _changed_settings(saved: Mapping[str, Any], config: PretrainConfig | FinetuneConfig) -> Iterator[str]:
    """What has changed of settings that matter, such as `optimizer.lr 0.0001 -> 0.0002`."""
    now = config.model_dump(mode="json")
    try:  # a setting that is newer than the checkpoint had its default
        saved = type(config).model_validate(saved).model_dump(mode="json")
    except ValidationError:  # the checkpoint is of a version with other settings: those that both have are compared
        saved = _overlaid(now, saved)
    for change in _differing(saved, now):
        shown = [
            each if isinstance(each, str) else json.dumps(each, ensure_ascii=False)
            for each in (change.saved, change.now)
        ]
        if max(map(len, shown)) <= _LONGEST:
            yield f"{change.name} {' -> '.join(shown)}"
        else:
            yield f"{change.name} has changed"


def _overlaid(now: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """`now` with the values of `saved` where both have them."""
    return {
        key: _overlaid(value, saved[key])
        if isinstance(value, Mapping) and isinstance(saved.get(key), Mapping)
        else saved.get(key, value)
        for key, value in now.items()
    }


class _Change(NamedTuple):
    name: str
    saved: Any
    now: Any


def _differing(saved: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> Iterator[_Change]:
    """Settings that differ, other than those of NOT_REPORTED.

    Args:
        path: name of the block, with a dot at its end.
    """
    for key in {**now, **saved}:
        name, old, new = f"{path}{key}", saved.get(key), now.get(key)
        if key in NOT_REPORTED or name in NOT_REPORTED:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differing(old, new, f"{name}.")
        elif old != new:
            yield _Change(name, old, new)
