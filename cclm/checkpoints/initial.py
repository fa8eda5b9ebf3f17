"""The model of a config with its initial weights."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cclm.checkpoints.backbones import copy_parameters, read_swin, read_vit, read_xlm_roberta
from cclm.checkpoints.find import WEIGHTS, Checkpoint, find_checkpoint, is_checkpoint_folder
from cclm.checkpoints.load import load_model, setting_differences
from cclm.checkpoints.published import load_published, read_published_file
from cclm.config.model import ModelConfig
from cclm.errors import UserError
from cclm.model.cclm import CCLM

_FINETUNED = "text_encoder.encoder."
"""Prefix that only parameter names of published fine-tuned models have."""
_WANTED = "a pre-trained model is wanted here; use a config of its task, or name a checkpoint of pre-training"


def build_model(config: ModelConfig, *, seed: int = 0) -> CCLM:
    """Build the model on the CPU and load what the config names; the rest is drawn from `seed`.

    `model.weights` names a whole model: a published .th file, or a checkpoint folder of ours. If it is set, the
    encoders' own weights are not read. Files are read, and checked for names and shapes, before the model
    is built.

    Raises:
        UserError: weights are absent, unsafe to read, or of another size.
    """
    load = _model_loader(config, config.weights) if config.weights is not None else _encoders_loader(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CCLM(config)
    load(model)
    return model


def restore_model(config: ModelConfig, checkpoint: Checkpoint) -> CCLM:
    """The model of a checkpoint of ours, on the CPU. The parameters are checked before the model is built.

    Raises:
        UserError: the checkpoint is of another model.
    """
    _refuse_finetuned(checkpoint)
    try:
        load_model(checkpoint, outline(config))
    except UserError as error:
        raise UserError(f"{error}{setting_differences(checkpoint.state['config']['model'], config)}") from None
    model = CCLM(config)
    load_model(checkpoint, model)
    return model


def _refuse_finetuned(checkpoint: Checkpoint) -> None:
    task = checkpoint.state.get("config", {}).get("task", "pretrain")
    if task != "pretrain":
        raise UserError(f"{checkpoint.source} was fine-tuned for {task}, but {_WANTED}")


def outline(config: ModelConfig) -> CCLM:
    """The model on the meta device: names and shapes of its parameters without numbers. Cheap at any size."""
    with torch.device("meta"):
        return CCLM(config)


def _model_loader(config: ModelConfig, weights: str) -> Callable[[CCLM], None]:
    """Read and check a whole model's weights; returns a function that copies them into a model."""
    if is_checkpoint_folder(weights):
        checkpoint = find_checkpoint(weights, WEIGHTS)
        _refuse_finetuned(checkpoint)
        load_model(checkpoint, outline(config))  # checks names and shapes; on the meta device no number is copied
        return lambda model: load_model(checkpoint, model)
    state = read_published_file(weights)
    if any(name.startswith(_FINETUNED) for name in state):
        raise UserError(f"weights {weights} are of a fine-tuned model, but {_WANTED}")

    def load(model: CCLM) -> None:
        source = f"weights {weights}"
        load_published(model, state, num_text_layers=config.text.num_text_layers, source=source)

    load(outline(config))
    return load


def _encoders_loader(config: ModelConfig) -> Callable[[CCLM], None]:
    """As `_model_loader`, for the encoders' own weights; encoders without weights in the config stay as they are."""
    vision, text = {}, {}
    if config.vision.weights is not None or config.text.weights is not None:
        shape = outline(config)
        if config.vision.weights is not None:
            read = read_swin if config.vision.architecture == "swin" else read_vit
            vision = read(shape.encoders.image_encoder, config.vision.weights)
        if config.text.weights is not None:
            text = read_xlm_roberta(shape, config.text, config.text.weights)

    def load(model: CCLM) -> None:
        copy_parameters(model.encoders.image_encoder, vision)
        copy_parameters(model, text)

    return load
