"""What must not change between the starts of a run: its identity, and the refusal of a checkpoint of another one.

An identity maps names that users know (settings, numbers of records) to JSON values. It is made by
`pretraining_identity`, `finetuning_identity` or `text_assignment_identity`. Fine-tuning and text assignment keep theirs
in their checkpoints, so its names must stay as they are. Checkpoints of pre-training hold what it is derived from:
config, records and layouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cclm.checkpoints.load import FREE_TO_CHANGE
from cclm.config.finetune import FinetuneConfig, TextAssignmentConfig
from cclm.data.annotations.read import AnnotatedConfig
from cclm.errors import UserError
from cclm.training.options import FinetuneOptions
from cclm.training.plan import KINDS
from cclm.training.resume import Start

PRETRAIN = "pretrain"
"""The task of pre-training configs and checkpoints."""

FEW_SHOT = "--fewshot"
"""Name of the few-shot file of a fine-tuning run in its identity."""

Identity = dict[str, Any]


def refuse_another_run(start: Start | None, identity: Mapping[str, Any]) -> None:
    """Check whether the checkpoint to go on from, if any, is of this run.

    Raises:
        UserError: it is of other data, of another model or of another task.
    """
    if start is None:
        return
    if found := differences(start.state, identity):
        raise UserError(
            f"{start.source} is of another run: {'; '.join(found)}. Go back to its settings, choose another "
            "output_dir, or start anew with --resume never"
        )


def differences(state: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """Sentences on where a checkpoint's identity differs from that of this run.

    Args:
        state: the JSON values of the checkpoint.
    """
    saved = _saved_identity(state, identity)
    return [
        f"{name} was {saved.get(name)} and is {identity.get(name)}"
        for name in sorted(saved.keys() | identity.keys())
        if saved.get(name) != identity.get(name)
    ]


# ----------------------------------------------------------------------- the identity of each kind of training


def pretraining_identity(config: Mapping[str, Any], records: Mapping[str, int], layouts: Mapping[str, str]) -> Identity:
    """What decides the sizes of the model and the order of the data.

    Args:
        config: `PretrainConfig` as JSON values.
        records: number of records of each source.
        layouts: checksum of how the files of each source are cut. As many records in other files come in another order.
    """
    identity = _identity_of_task(PRETRAIN, config["seed"], config["model"])
    identity["model.embed_dim"] = config["model"]["embed_dim"]
    for kind in KINDS:
        source = config["data"][kind]
        if source is not None:
            for name in ("batch_size", "probability", "max_images"):
                if name in source:
                    identity[f"data.{kind}.{name}"] = source[name]
            identity[_records_of(kind)] = records[kind]
            if kind in layouts:
                identity[_layout_of(kind)] = layouts[kind]
    return identity


def finetuning_identity(config: AnnotatedConfig, options: FinetuneOptions, examples: int) -> Identity:
    """What decides the sizes of the model and the order of the data.

    Args:
        examples: number of training examples.
    """
    return {
        **_identity_of_finetuning(config),
        "training.batch_size": config.training.batch_size,
        "number of training examples": examples,
        FEW_SHOT: None if options.shots is None else f"{options.shots.language},{options.shots.shots}",
    }


def text_assignment_identity(config: TextAssignmentConfig, records: int, layout: str) -> Identity:
    """What decides the sizes of the model and the order of the data.

    Args:
        records: number of records of its source.
        layout: checksum of how the files of the source are cut.
    """
    return {
        **_identity_of_finetuning(config),
        "data.images.batch_size": config.data.images.batch_size,
        "records": records,
        "how the files of data.images are cut": layout,
    }


def _identity_of_finetuning(config: FinetuneConfig) -> Identity:
    return _identity_of_task(config.task, config.seed, config.model.model_dump(mode="json"))


def _identity_of_task(task: str, seed: int, model: Mapping[str, Any]) -> Identity:
    """The part of every identity that does not depend on the data: task, seed, and what decides the encoders' sizes.

    Args:
        model: `ModelConfig` as JSON values.
    """
    sizes = {
        f"model.{part}.{name}": value
        for part in ("vision", "text")
        for name, value in model[part].items()
        if name not in FREE_TO_CHANGE
    }
    return {"task": task, "seed": seed, **sizes}


# ------------------------------------------------------------------------------------------ what checkpoints hold


def _saved_identity(state: Mapping[str, Any], identity: Mapping[str, Any]) -> Mapping[str, Any]:
    """The identity of the run that wrote a checkpoint.

    Args:
        identity: of this run. A checkpoint that does not say something agrees with it.
    """
    if "identity" in state:
        return dict(state["identity"])
    task = state.get("config", {}).get("task", PRETRAIN)
    if identity.get("task") != PRETRAIN or task != PRETRAIN:
        return {"task": state.get("config", {}).get("task")}
    if "config" not in state:  # whether the model fits shows when it is loaded
        return identity
    saved = pretraining_identity(state["config"], state["records"], state.get("layouts", {}))
    for kind in KINDS:
        name, records = _layout_of(kind), _records_of(kind)
        # Older checkpoints do not tell. With another number of records the files are cut otherwise in any case.
        if name not in saved or name not in identity or saved.get(records) != identity.get(records):
            saved.pop(name, None)
            if name in identity:
                saved[name] = identity[name]
    return saved


def _records_of(kind: str) -> str:
    return f"number of records of data.{kind}"


def _layout_of(kind: str) -> str:
    return f"checksum of how the files of data.{kind} are cut"
