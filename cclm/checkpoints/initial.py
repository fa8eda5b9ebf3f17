"""The model of a config with its initial weights."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cclm.checkpoints.backbones import put, read_swin, read_vit, read_xlm_roberta
from cclm.checkpoints.find import WEIGHTS, Checkpoint, find_checkpoint, is_checkpoint_folder
from cclm.checkpoints.load import load_model, other_settings
from cclm.checkpoints.published import load_published, read_published_file
from cclm.config.model import ModelConfig
from cclm.errors import UserError
from cclm.model.cclm import CCLM

_FINETUNED = "text_encoder.encoder."
"""How published names of fine-tuned models start, and of no others."""
_WANTED = "a pre-trained model is wanted here; use a config of its task, or name a checkpoint of pre-training"


def build_model(config: ModelConfig, *, seed: int = 0) -> CCLM:
    """Build the model on the CPU and load what the config names; the rest is drawn from `seed`.

    `model.weights` (a whole model: a published .th file, or a folder of ours) goes before the encoders' own weights.
    Files are read and held against the model's names and shapes before it is built.

    Raises:
        UserError: weights are absent, unsafe to read, or of another size.
    """
    load = _whole(config) if config.weights is not None else _encoders(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CCLM(config)
    load(model)
    return model


def restore_model(config: ModelConfig, checkpoint: Checkpoint) -> CCLM:
    """The model of a checkpoint of ours, on the CPU; its parameters are checked before the model is built.

    Raises:
        UserError: the checkpoint is of another model.
    """
    _refuse_finetuned(checkpoint)
    try:
        load_model(checkpoint, outline(config))
    except UserError as error:
        raise UserError(f"{error}{other_settings(checkpoint.state['config']['model'], config)}") from None
    model = CCLM(config)
    load_model(checkpoint, model)
    return model


def _refuse_finetuned(checkpoint: Checkpoint) -> None:
    task = checkpoint.state.get("config", {}).get("task", "pretrain")
    if task != "pretrain":
        raise UserError(f"{checkpoint.source} was fine-tuned for {task}, but {_WANTED}")


def outline(config: ModelConfig) -> CCLM:
    """The model without numbers: names and shapes of its parameters, on the meta device. Cheap at any size."""
    with torch.device("meta"):
        return CCLM(config)


def _whole(config: ModelConfig) -> Callable[[CCLM], None]:
    """Read and check a whole model's weights; what comes back copies them into a model."""
    if is_checkpoint_folder(config.weights):
        checkpoint = find_checkpoint(config.weights, WEIGHTS)
        _refuse_finetuned(checkpoint)
        load_model(checkpoint, outline(config))  # copying onto the meta device checks, and moves nothing
        return lambda model: load_model(checkpoint, model)
    state = read_published_file(config.weights)
    if any(name.startswith(_FINETUNED) for name in state):
        raise UserError(f"weights {config.weights} are of a fine-tuned model, but {_WANTED}")

    def load(model: CCLM) -> None:
        source = f"weights {config.weights}"
        load_published(model, state, num_text_layers=config.text.num_text_layers, source=source)

    load(outline(config))
    return load


def _encoders(config: ModelConfig) -> Callable[[CCLM], None]:
    """The same for the encoders' own weights, as far as the config names any."""
    vision, text = {}, {}
    if config.vision.weights is not None or config.text.weights is not None:
        shape = outline(config)
        if config.vision.weights is not None:
            read = read_swin if config.vision.architecture == "swin" else read_vit
            vision = read(shape.encoders.image_encoder, config.vision.weights)
        if config.text.weights is not None:
            text = read_xlm_roberta(shape, config.text, config.text.weights)

    def load(model: CCLM) -> None:
        put(model.encoders.image_encoder, vision)
        put(model, text)

    return load
