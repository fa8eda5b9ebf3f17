"""Which tensors of a model and an optimizer a checkpoint holds, and how they are copied back, by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cclm.checkpoints.find import Checkpoint
from cclm.checkpoints.manifest import MODEL, OPTIMIZER
from cclm.config.model import ModelConfig
from cclm.errors import UserError

FREE_TO_CHANGE = {
    "weights",
    "tokenizer",
    "dropout",
    "attention_dropout",
    "drop_path",
    "initializer_range",
    "temperature",
}
"""Settings of the model that a resumed run may change: they do not affect names and shapes of its parameters."""


def setting_differences(then: Mapping[str, Any], now: ModelConfig) -> str:
    """The end of a message about a checkpoint that does not fit: how its model's settings differ from the config's.

    Args:
        then: the `model` part of the checkpoint's config.

    Returns:
        Such as " (model.text.num_layers was 12 and is 6)"; "" where nothing differs.
    """
    old, new = _by_name(then), _by_name(now.model_dump(mode="json"))
    differing = [
        f"model.{name} was {old[name]} and is {new[name]}" for name in old if name in new and old[name] != new[name]
    ]
    return f" ({'; '.join(differing)})" if differing else ""


def _by_name(model: Mapping[str, Any]) -> dict[str, Any]:
    """`text.num_layers` and so on, without what is free to change."""
    flat = {name: value for name, value in model.items() if not isinstance(value, Mapping)}
    for part, settings in model.items():
        if isinstance(settings, Mapping):
            flat |= {f"{part}.{name}": value for name, value in settings.items()}
    return {name: value for name, value in flat.items() if name.rpartition(".")[2] not in FREE_TO_CHANGE}


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds of a model: its parameters, tied ones once. Buffers follow from the architecture."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of the optimizer as "<parameter name>/<slot>" -> tensor. Parameters that were never updated have none."""
    return {
        f"{name}/{slot}": torch.as_tensor(value)
        for name, parameter in _named_parameters(optimizer)
        for slot, value in optimizer.state.get(parameter, {}).items()
    }


def load_model(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Copy the checkpoint's parameters into `model`, which stays on its device.

    Raises:
        UserError: other names or sizes than the model's.
    """
    _load_parameters(model, _read(checkpoint.file(MODEL)), checkpoint.source)


def load_optimizer(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> None:
    """Set the optimizer's state from the checkpoint, by parameter name. Learning rates and groups stay as they are.

    Raises:
        UserError: the checkpoint holds state of a parameter that the optimizer does not have.
    """
    set_optimizer_tensors(optimizer, _read(checkpoint.file(OPTIMIZER)), checkpoint.source)


def set_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], source: str) -> None:
    """As `load_optimizer`, from tensors that are named as `optimizer_tensors` names them; they are copied.

    Args:
        source: where they come from, for messages.
    """
    slots: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, slot = key.rpartition("/")
        slots.setdefault(name, {})[slot] = tensor
    optimizer.state.clear()
    for name, parameter in _named_parameters(optimizer):
        if name in slots:
            # Copied, since a tensor that was read is a map of the file, and the file may be deleted during the run.
            optimizer.state[parameter] = {
                slot: value.to(parameter.device, copy=True) for slot, value in slots.pop(name).items()
            }
    if slots:
        raise UserError(f"checkpoint {source} holds optimizer state of {min(slots)}, unknown to this run")


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
