"""The model of a config with its initial weights."""

from __future__ import annotations

from pathlib import Path

import torch

from cclm.checkpoints.backbones import load_swin, load_vit, load_xlm_roberta
from cclm.checkpoints.published import load_published, read_published_file
from cclm.checkpoints.save import find_checkpoint, load_model
from cclm.config import ModelConfig
from cclm.model.cclm import CCLM


def build_model(config: ModelConfig, *, seed: int = 0) -> CCLM:
    """Build the model on the CPU and load what the config names; the rest is drawn from `seed`.

    `model.weights` (a whole model: a published .th file, or a folder of ours) goes before the encoders' own weights.

    Raises:
        UserError: weights are absent, unsafe to read, or of another size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CCLM(config)
    if config.weights is not None:
        _load_whole(model, config)
        return model
    if config.vision.weights is not None:
        if config.vision.architecture == "swin":
            load_swin(model.encoders.image_encoder, config.vision, config.vision.weights)
        else:
            load_vit(model.encoders.image_encoder, config.vision.weights)
    if config.text.weights is not None:
        load_xlm_roberta(model, config.text, config.text.weights)
    return model


def _load_whole(model: CCLM, config: ModelConfig) -> None:
    if Path(config.weights).is_dir():
        load_model(find_checkpoint(Path(config.weights)), model)
    else:
        state = read_published_file(config.weights)
        source = f"weights {config.weights}"
        load_published(model, state, num_text_layers=config.text.num_text_layers, source=source)
