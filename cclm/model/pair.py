"""Fusion of a text with two images, for NLVR2 and MaRVL. As published, each fusion layer becomes two.

See docs/method.md, section Fine-tuning tasks.

Dimension letters: B texts, L tokens, H width.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from cclm.model.attention import Context, SequencesT
from cclm.model.layers import LayerList
from cclm.model.text import FusionEncoder, FusionLayer


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

    def forward(self, texts: SequencesT, left: Context, right: Context) -> SequencesT:
        """Text states (B, L, H) -> (B, L, H)."""
        states: SequencesT = self.right(self.left(texts, left), right)
        return states

    def forward_first(self, texts: SequencesT, left: Context, right: Context) -> Tensor:
        """The result of `forward` at position 0 alone: text states (B, L, H) -> (B, H)."""
        after_left: SequencesT = self.left(texts, left)
        return self.right.forward_first(after_left, right)


class PairFusionEncoder(nn.Module):
    """Fusion encoder for a text and two images."""

    def __init__(self, fusion_encoder: FusionEncoder) -> None:
        super().__init__()
        self.layers = LayerList(PairFusionLayer(layer) for layer in fusion_encoder.layers)

    def forward(self, texts: SequencesT, left: Context, right: Context) -> SequencesT:
        """Text states (B, L, H) -> (B, L, H)."""
        for layer in self.layers:
            texts = layer(texts, left, right)
        return texts

    def forward_first(self, texts: SequencesT, left: Context, right: Context) -> Tensor:
        """The result of `forward` at position 0, (B, H). The last layer computes that position alone."""
        for layer in self.layers[:-1]:
            texts = layer(texts, left, right)
        return self.layers[-1].forward_first(texts, left, right)
