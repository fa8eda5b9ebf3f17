"""How many floating-point operations the forward pass of each part of the model takes, from its config alone.

Matrix products are counted, including those of attention: `m x k` times `k x n` are `2 m k n` operations. What is left
out (norms, GELU, softmax, dropout, sums, embeddings) is a small share and no work for the units that a device's peak
speaks of. Attention is counted as if every query met every key, whatever its mask hides, which is the usual count
(arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cclm.config.model import ModelConfig, VisionConfig


@dataclass(frozen=True)
class Attended:
    """What the texts of one call attend to."""

    positions: int
    """Number of states in all sequences. Keys and values are computed for each."""
    of_text: Sequence[float]
    """For each text, the number of positions that its queries attend to. Where it is drawn, a mean."""


@dataclass(frozen=True)
class ImageFlops:
    """Of one image."""

    forward: int
    """Of the whole image encoder."""
    patch_embedding: int
    """The part of it whose input, the pixels, needs no gradient."""


class ModelFlops:
    """Counts the forward pass of parts of the model.

    `lengths` are those of the texts, in tokens. Padded lengths give what is computed, real ones what is asked for.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._text, self._embed_dim = config.text, config.embed_dim
        self.image = _swin(config.vision) if config.vision.architecture == "swin" else _vit(config.vision)
        self.image_positions = 1 + (config.vision.image_size // config.vision.total_stride) ** 2

    def encode_text(self, lengths: Sequence[int]) -> int:
        """The text encoder."""
        return self._text.num_text_layers * (self._self_attention(lengths) + self._feed_forward(sum(lengths)))

    def fuse(self, lengths: Sequence[int], attended: Attended | None) -> float:
        """The fusion encoder; without `attended`, cross-attention is left out."""
        return self._fusion_layers * self.fusion_layer(lengths, attended)

    def fuse_first(self, lengths: Sequence[int], attended: Attended) -> float:
        """The fusion encoder whose last layer computes position 0 alone."""
        whole = (self._fusion_layers - 1) * self.fusion_layer(lengths, attended)
        return whole + self.fusion_layer_first(lengths, attended)

    def fuse_pair_first(self, lengths: Sequence[int], left: Attended, right: Attended) -> float:
        """The fusion encoder for two images, whose last layer computes position 0 alone."""
        whole = self._fusion_layers * self.fusion_layer(lengths, left)
        whole += (self._fusion_layers - 1) * self.fusion_layer(lengths, right)
        return whole + self.fusion_layer_first(lengths, right)

    def fusion_layer(self, lengths: Sequence[int], attended: Attended | None) -> float:
        """One layer of the fusion encoder, or of a decoder."""
        width, tokens = self._text.hidden_size, sum(lengths)
        total: float = self._self_attention(lengths) + self._feed_forward(tokens)
        if attended is not None:
            met = sum(length * positions for length, positions in zip(lengths, attended.of_text, strict=True))
            total += self._linear(2 * tokens + 2 * attended.positions) + 4 * width * met
        return total

    def fusion_layer_first(self, lengths: Sequence[int], attended: Attended) -> float:
        """One layer at position 0 alone."""
        width, tokens, texts = self._text.hidden_size, sum(lengths), len(lengths)
        self_attention = self._linear(2 * tokens + 2 * texts) + 4 * width * tokens
        cross_attention = self._linear(2 * texts + 2 * attended.positions) + 4 * width * sum(attended.of_text)
        return self_attention + cross_attention + self._feed_forward(texts)

    def token_logits(self, states: int) -> int:
        """Logits over the vocabulary."""
        return self._linear(states) + 2 * states * self._text.hidden_size * self._text.vocab_size

    def mlp_head(self, rows: int, outputs: int) -> int:
        """A head of two layers."""
        width = self._text.hidden_size
        return 2 * rows * 2 * width * (width + outputs)

    def linear_head(self, rows: int, outputs: int) -> int:
        """A head of one layer."""
        return 2 * rows * self._text.hidden_size * outputs

    def project(self, rows: int) -> int:
        """States to the space in which images and texts are compared."""
        return 2 * rows * self._text.hidden_size * self._embed_dim

    def compare(self, rows: int, columns: int) -> int:
        """Similarities of features."""
        return 2 * rows * columns * self._embed_dim

    @property
    def _fusion_layers(self) -> int:
        return self._text.num_layers - self._text.num_text_layers

    def _linear(self, positions: int) -> int:
        """A layer from states to states."""
        return 2 * positions * self._text.hidden_size**2

    def _self_attention(self, lengths: Sequence[int]) -> int:
        met = sum(length * length for length in lengths)
        return self._linear(4 * sum(lengths)) + 4 * self._text.hidden_size * met

    def _feed_forward(self, positions: int) -> int:
        return 4 * positions * self._text.hidden_size * self._text.intermediate_size


def _swin(config: VisionConfig) -> ImageFlops:
    """Windows that stand over the border are padded and computed as a whole."""
    side, width = config.image_size // config.patch_size, config.embed_dim
    embedding = 2 * side * side * 3 * config.patch_size**2 * width
    total = embedding
    for stage, depth in enumerate(config.depths):
        if stage:  # four neighbours become one state of twice the width
            side, width = side // 2, 2 * width
            total += 2 * side * side * (2 * width) * width
        window = min(side, config.window_size)
        windows = math.ceil(side / window) ** 2
        attention = windows * (8 * window**2 * width**2 + 4 * window**4 * width)
        total += depth * (attention + 16 * side * side * width**2)
    return ImageFlops(total, embedding)


def _vit(config: VisionConfig) -> ImageFlops:
    patches, width = (config.image_size // config.patch_size) ** 2, config.embed_dim
    embedding = 2 * patches * 3 * config.patch_size**2 * width
    positions = 1 + patches
    layer = 24 * positions * width**2 + 4 * positions**2 * width
    return ImageFlops(embedding + config.depths[0] * layer, embedding)
