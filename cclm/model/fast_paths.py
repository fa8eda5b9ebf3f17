"""Turns the fast paths of layers on and off; those of a whole step are in `cclm.tasks.pretraining_task`."""

from __future__ import annotations

from torch import nn

from cclm.config.compute import ComputeConfig
from cclm.model.attention import CrossAttention, SelfAttention
from cclm.model.dropout import Dropout
from cclm.model.text import FusionEncoder, TextEncoder
from cclm.model.vision import ImageEncoder


def set_fast_paths(module: nn.Module, compute: ComputeConfig) -> None:
    """Have all layers of a module compute as `compute` says."""
    for part in module.modules():
        if isinstance(part, SelfAttention | CrossAttention):
            part.unpadded, part.cheap_dropout = compute.unpadded_attention, compute.cheap_dropout
        elif isinstance(part, ImageEncoder):
            part.unfused_windows = compute.unfused_windows
            part.trunk.set_grad_checkpointing(compute.recompute_layers)
        elif isinstance(part, TextEncoder | FusionEncoder):
            part.recomputes = compute.recompute_layers
        elif isinstance(part, Dropout):
            part.cheap = compute.cheap_dropout
