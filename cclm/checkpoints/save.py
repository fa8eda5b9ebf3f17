"""Checkpoints of a run: a folder of safetensors and JSON, whole or not there at all. No pickle.

    step-00001234/
        model.safetensors       parameters by name, as the model names them
        optimizer.safetensors   "<parameter name>/<slot>", e.g. "model.match_head.0.weight/exp_avg"
        state.json              step, config, versions: what a reader needs to know before loading
        manifest.json           size and SHA-256 of the others, written last

Nothing random is stored: it follows from (seed, step). A folder is written under another name, synced, and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cclm.errors import UserError

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
MANIFEST = "manifest.json"
FORMAT = 1

_FOLDER = re.compile(r"step-(\d{8,})")
_UNFINISHED = ".unfinished-"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk: its manifest was checked."""

    path: Path
    step: int
    """Outer steps done."""
    state: dict[str, Any]
    """Contents of state.json."""


class TornCheckpointError(Exception):
    """A folder that is not a whole checkpoint; the message says what is wrong with it."""


def save_checkpoint(
    output_dir: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> Path:
    """Write `output_dir/step-<step>`; call on one process only.

    Args:
        step: outer steps done.
        optimizer: its groups carry `names`, in the order of their `params`.
        state: JSON values to keep beside it; `step` is added.
    """
    final = output_dir / f"step-{step:08d}"
    output_dir.mkdir(parents=True, exist_ok=True)
    for leftover in output_dir.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(leftover)
    folder = output_dir / f"{_UNFINISHED}{final.name}"
    folder.mkdir()
    save_file(_contiguous(dict(model.named_parameters())), folder / MODEL)
    save_file(_contiguous(optimizer_tensors(optimizer)), folder / OPTIMIZER)
    (folder / STATE).write_text(json.dumps({"step": step, **state}, indent=1, ensure_ascii=False) + "\n")
    sizes = {name: (folder / name).stat().st_size for name in (MODEL, OPTIMIZER, STATE)}
    files = {name: {"size": size, "sha256": _digest(folder / name)} for name, size in sizes.items()}
    for name in files:
        _sync(folder / name)
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1) + "\n")
    _sync(folder / MANIFEST)
    _sync(folder)
    if final.exists():  # a torn one, or the same step trained again
        shutil.rmtree(final)
    folder.rename(final)
    _sync(output_dir)
    return final


def prune_checkpoints(output_dir: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoint folders."""
    for path in checkpoint_folders(output_dir)[keep:]:
        # Renamed first: a deletion that is cut off must not leave something that looks like a checkpoint.
        doomed = path.with_name(f"{_UNFINISHED}{path.name}")
        path.rename(doomed)
        shutil.rmtree(doomed)


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """Folders named like checkpoints, newest first, unchecked."""
    found = [(int(match[1]), path) for path in output_dir.glob("step-*") if (match := _FOLDER.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def newest_checkpoint(output_dir: Path, report: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint of a run, or None; every torn one on the way is named through `report`."""
    for path in checkpoint_folders(output_dir):
        try:
            return open_checkpoint(path)
        except TornCheckpointError as problem:
            report(f"skipped checkpoint {path}: {problem}")
    return None


def open_checkpoint(path: Path) -> Checkpoint:
    """Check a folder against its manifest.

    Raises:
        TornCheckpointError: a file is absent, cut, or changed.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise TornCheckpointError(f"its format is {manifest['format']}, this version of cclm reads {FORMAT}")
        files = manifest["files"]
        for name in (MODEL, OPTIMIZER, STATE):
            expected, size = files[name], (path / name).stat().st_size
            if size != expected["size"]:
                raise TornCheckpointError(f"{name} has {size} bytes, its manifest says {expected['size']}")
            if _digest(path / name) != expected["sha256"]:
                raise TornCheckpointError(f"{name} differs from the SHA-256 in its manifest")
        state = json.loads((path / STATE).read_text())
        return Checkpoint(path, state["step"], state)
    except FileNotFoundError as error:
        raise TornCheckpointError(f"{Path(error.filename).name} is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise TornCheckpointError(f"unreadable manifest or state ({type(error).__name__}: {error})") from None


def find_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a folder: the folder itself, or the newest whole one of a run's folder.

    Raises:
        UserError: there is none, or it is torn.
    """
    if checkpoint_folders(path):
        found = newest_checkpoint(path, print)
        if found is None:
            raise UserError(f"no checkpoint in {path} is whole (see above)")
        return found
    try:
        return open_checkpoint(path)
    except TornCheckpointError as problem:
        raise UserError(f"{path} is not a whole checkpoint: {problem}") from None


def load_model(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Copy the checkpoint's parameters into `model`, which stays where it is.

    Raises:
        UserError: other names or sizes than the model's.
    """
    _load_parameters(model, _read(checkpoint.path / MODEL), str(checkpoint.path))


def load_optimizer(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> None:
    """Set the optimizer's state from the checkpoint, by parameter name; rates and groups stay the config's."""
    slots: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _read(checkpoint.path / OPTIMIZER).items():
        name, _, slot = key.rpartition("/")
        slots.setdefault(name, {})[slot] = tensor
    optimizer.state.clear()
    for name, parameter in _named_parameters(optimizer):
        if name in slots:
            # Copied: what was read is a map of the file, which may be deleted while the run goes on.
            optimizer.state[parameter] = {
                slot: value.to(parameter.device, copy=True) for slot, value in slots.pop(name).items()
            }
    if slots:
        raise UserError(f"checkpoint {checkpoint.path} holds optimizer state of {min(slots)}, unknown to this run")


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of the optimizer as "<parameter name>/<slot>" -> tensor; parameters never updated have none."""
    return {
        f"{name}/{slot}": torch.as_tensor(value)
        for name, parameter in _named_parameters(optimizer)
        for slot, value in optimizer.state.get(parameter, {}).items()
    }


def _named_parameters(optimizer: torch.optim.Optimizer) -> list[tuple[str, Tensor]]:
    return [pair for group in optimizer.param_groups for pair in zip(group["names"], group["params"], strict=True)]


@torch.no_grad()
def _load_parameters(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    mine = dict(model.named_parameters())
    for missing in sorted(mine.keys() ^ tensors.keys()):
        where = "the model" if missing in mine else source
        raise UserError(
            f"{source} does not fit this model: only {where} has {missing}; use the config it was made with"
        )
    for name, parameter in mine.items():
        if parameter.shape != tensors[name].shape:
            raise UserError(
                f"{source} does not fit this model: {name} is {tuple(tensors[name].shape)} there and "
                f"{tuple(parameter.shape)} here; use the config it was made with"
            )
        parameter.copy_(tensors[name])


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file ({error})") from None


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
