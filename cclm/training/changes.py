"""What differs between a checkpoint and the run that goes on from it, in words: what is refused, and what is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from cclm.config.finetune import FinetuneConfig
from cclm.config.model import ModelConfig
from cclm.config.pretrain import PretrainConfig
from cclm.errors import UserError
from cclm.training.resume import Start

INITIAL = "initial_weights"
"""Key of a checkpoint's state: what the run began with (`initial_weights`)."""

BESIDE_THE_POINT = {
    "output_dir", "output_hdfs", "checkpoints", "index_dir", "num_workers", "log_every", "save_every",
    "evaluation.batch_size", "evaluation.text_batch_size", "weights",
}  # fmt: skip
"""Settings, by name or last part, that change nothing about what is learnt; initial weights are told apart."""

_LONGEST = 80
"""Characters of a value that is shown."""


def refuse_other_run(start: Start | None, identity: Mapping[str, Any]) -> None:
    """Raises UserError where going on from the checkpoint, if any, would not be the same fine-tuning run."""
    if start is None:
        return
    then = start.state.get("identity", {"task": start.state.get("config", {}).get("task")})
    names = [name for name in sorted(then.keys() | identity.keys()) if then.get(name) != identity.get(name)]
    if names:
        differences = "; ".join(f"{name} was {then.get(name)} and is {identity.get(name)}" for name in names)
        raise UserError(
            f"{start.source} is of another run: {differences}. Go back to its settings, choose another output_dir, or "
            "start anew with --resume never"
        )


def initial_weights(start: Start | None, model: ModelConfig, checkpoint: str | None = None) -> dict[str, str]:
    """Option or setting -> the weights that a run began with, to be kept beside all of its checkpoints.

    Args:
        checkpoint: what `--checkpoint` names.
    """
    if start is None:
        return _named(model.model_dump(mode="json"), checkpoint)
    if INITIAL in start.state:
        return dict(start.state[INITIAL])
    return _named(start.state.get("config", {}).get("model", {}), None)  # older checkpoints tell no more


def settings_of(
    config: PretrainConfig | FinetuneConfig, start: Start | None, checkpoint: str | None = None
) -> dict[str, Any]:
    """What a checkpoint tells of its run's settings, for its state."""
    return {"config": config.model_dump(mode="json"), INITIAL: initial_weights(start, config.model, checkpoint)}


def changes(
    start: Start | None, config: PretrainConfig | FinetuneConfig, checkpoint: str | None = None
) -> Iterator[str]:
    """Lines on what a run that goes on does otherwise than its checkpoint, and which weights it does not begin with.

    Args:
        checkpoint: what `--checkpoint` names now.
    """
    if start is None:
        return
    began = initial_weights(start, config.model)
    for name, path in initial_weights(None, config.model, checkpoint).items():
        if began.get(name) != path:
            yield f"{name} {path} is not used: the run goes on from {start.source} (--resume never begins anew)"
    if differences := "; ".join(_changed_settings(start.state.get("config", {}), config)):
        yield f"going on from step {start.step} with other settings than it was saved with: {differences}"


def _named(model: Mapping[str, Any], checkpoint: str | None) -> dict[str, str]:
    """The weights that count: those of a whole model go before those of its encoders."""
    named = {"--checkpoint": checkpoint, "model.weights": model.get("weights")}
    for name, path in named.items():
        if path is not None:
            return {name: path.rstrip("/")}
    parts = {part: model.get(part, {}).get("weights") for part in ("vision", "text")}
    return {f"model.{part}.weights": path.rstrip("/") for part, path in parts.items() if path is not None}


def _changed_settings(saved: Mapping[str, Any], config: PretrainConfig | FinetuneConfig) -> Iterator[str]:
    """`optimizer.lr 0.0001 -> 0.0002`, and so on, of what is not beside the point."""
    now = config.model_dump(mode="json")
    try:  # a setting that is newer than the checkpoint had its default
        saved = type(config).model_validate(saved).model_dump(mode="json")
    except ValidationError:  # of a version with other settings: what both know is compared
        saved = _overlaid(now, saved)
    for name, then, value in _differing(saved, now):
        shown = [each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in (then, value)]
        yield f"{name} {' -> '.join(shown)}" if max(map(len, shown)) <= _LONGEST else f"{name} has changed"


def _overlaid(now: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """`now` with the values of `saved` where both have them."""
    return {
        key: _overlaid(value, saved[key])
        if isinstance(value, Mapping) and isinstance(saved.get(key), Mapping)
        else saved.get(key, value)
        for key, value in now.items()
    }


def _differing(then: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name, value then, value now."""
    for key in {**now, **then}:
        name, old, new = f"{path}{key}", then.get(key), now.get(key)
        if key in BESIDE_THE_POINT or name in BESIDE_THE_POINT:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differing(old, new, f"{name}.")
        elif old != new:
            yield name, old, new
