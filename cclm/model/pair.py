"""Fusion of a text with two images, for NLVR2 and MaRVL (as published: each fusion layer becomes two).

Dimension letters: B texts, L tokens, H width.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from cclm.model.attention import Context
from cclm.model.text import FusionEncoder, FusionLayer
from cclm.sequences import AnySequences


class PairFusionLayer(nn.Module):
    """A complete fusion layer that attends to the left image, then one that attends to the right image.

    Both start as copies of one pre-trained layer and share the projections of keys and values.
    """

    def __init__(self, layer: FusionLayer) -> None:
        super().__init__()
        self.left = copy.deepcopy(layer)
        self.right = copy.deepcopy(layer)
        self.right.cross_attention.key = self.left.cross_attention.key
        self.right.cross_attention.value = self.left.cross_attention.value

    def forward(self, texts: AnySequences, left: Context, right: Context) -> AnySequences:
        return self.right(self.left(texts, left), right)

    def first(self, texts: AnySequences, left: Context, right: Context) -> Tensor:
        """What `forward` gives at position 0, and nothing else: (B, H)."""
        return self.right.first(self.left(texts, left), right)


class PairFusionEncoder(nn.Module):
    """Fusion encoder for a text and two images."""

    def __init__(self, fusion_encoder: FusionEncoder) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PairFusionLayer(layer) for layer in fusion_encoder.layers)

    def forward(self, texts: AnySequences, left: Context, right: Context) -> AnySequences:
        """Text states (B, L, H) -> (B, L, H)."""
        for layer in self.layers:
            texts = layer(texts, left, right)
        return texts

    def first(self, texts: AnySequences, left: Context, right: Context) -> Tensor:
        """What `forward` gives at position 0, (B, H): the last layer computes nothing else."""
        for layer in self.layers[:-1]:
            texts = layer(texts, left, right)
        return self.layers[-1].first(texts, left, right)
