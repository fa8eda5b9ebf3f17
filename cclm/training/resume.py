"""Where a run starts: anew, or from a checkpoint of the same run."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from cclm import distributed
from cclm.checkpoints.save import STATE, Checkpoint, checkpoint_folders, newest_checkpoint
from cclm.config import PretrainConfig
from cclm.data.audit import AUDIT
from cclm.data.quarantine import QUARANTINE
from cclm.errors import UserError
from cclm.metrics.report import LOG, METRICS
from cclm.training.evaluation import RESULT
from cclm.training.plan import KINDS

Resume = Literal["auto", "never"]

_FREE_TO_CHANGE = {
    "weights",
    "tokenizer",
    "dropout",
    "attention_dropout",
    "drop_path",
    "initializer_range",
    "temperature",
}
"""Settings of the model that a resumed run may change: they do not decide what fits into it."""


def find_start(
    output_dir: Path, config: PretrainConfig, records: Mapping[str, int], resume: Resume
) -> Checkpoint | None:
    """The checkpoint to go on from, the same on every process, or None to start anew.

    Raises:
        UserError: the checkpoint is of another run, or all there are are torn.
    """
    if resume == "never":
        if distributed.rank() == 0:
            set_aside(output_dir)
        distributed.barrier()
        return None
    found = newest_checkpoint(output_dir, print) if distributed.rank() == 0 else None
    path = distributed.gather_objects(found and found.path)[0]  # what the first process found, checked once
    if path is None:
        if checkpoint_folders(output_dir):
            raise UserError(f"no checkpoint in {output_dir} is whole (see above); start anew with --resume never")
        return None
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    checkpoint = Checkpoint(path, state["step"], state)
    differences = differences_that_forbid_resuming(checkpoint.state, config, records)
    if differences:
        raise UserError(
            f"{checkpoint.path} is of another run: {'; '.join(differences)}. Go back to its settings, choose another "
            "output_dir, or start anew with --resume never"
        )
    return checkpoint


def differences_that_forbid_resuming(
    state: Mapping[str, Any], config: PretrainConfig, records: Mapping[str, int]
) -> list[str]:
    """What differs between a checkpoint and this run so that going on would not be the same run, in words."""
    then, now = _identity(state["config"], state["records"]), _identity(config.model_dump(mode="json"), records)
    return [
        f"{name} was {then.get(name)} and is {now.get(name)}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]


def _identity(config: Mapping[str, Any], records: Mapping[str, int]) -> dict[str, Any]:
    """What decides the sizes of the model and the order of the data, by the names that users know."""
    identity: dict[str, Any] = {"seed": config["seed"], "model.embed_dim": config["model"]["embed_dim"]}
    for part in ("vision", "text"):
        for name, value in config["model"][part].items():
            if name not in _FREE_TO_CHANGE:
                identity[f"model.{part}.{name}"] = value
    for kind in KINDS:
        source = config["data"][kind]
        if source is not None:
            for name in ("batch_size", "probability", "max_images"):
                if name in source:
                    identity[f"data.{kind}.{name}"] = source[name]
            identity[f"number of records of data.{kind}"] = records[kind]
    return identity


def set_aside(output_dir: Path) -> None:
    """Move what an earlier run left in `output_dir` into a folder of its own there; nothing is deleted."""
    left = [*checkpoint_folders(output_dir), *(output_dir / name for name in (METRICS, LOG, RESULT, AUDIT))]
    left += output_dir.glob(QUARANTINE)
    left = [path for path in left if path.exists()]
    if left:
        name = time.strftime("earlier-%Y%m%d-%H%M%S")
        names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))  # twice in a second
        folder = next(output_dir / name for name in names if not (output_dir / name).exists())
        folder.mkdir()
        for path in left:
            path.rename(folder / path.name)
