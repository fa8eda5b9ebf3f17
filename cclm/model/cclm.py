"""The architecture on one page: two encoders, a fusion encoder, and the heads of pre-training.

Source: arXiv 2206.00621, section 3.1; docs/method.md, section Model.

Dimension letters: N images, B texts, R image side in pixels, P patches, L tokens, H width, M states, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn

from cclm.config.model import ModelConfig
from cclm.model.attention import Context, SequencesT
from cclm.model.heads import MlpHead, SharedSpace
from cclm.model.text import FusionEncoder, TextEncoder, TokenHead
from cclm.model.vision import ImageEncoder
from cclm.sequences import Sequences


class Encoders(nn.Module):
    """Image, text and fusion encoders: the part that most tasks keep."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder(config.vision)
        self.text_encoder = TextEncoder(config.text)
        self.fusion_encoder = FusionEncoder(config.text)

    def encode_images(self, images: Tensor) -> Sequences:
        """(N, R, R, 3) uint8 (or float, see `ImageEncoder`) -> states (N, 1 + P, H)."""
        states: Sequences = self.image_encoder(images)
        return states

    def encode_text(self, tokens: SequencesT) -> SequencesT:
        """Token ids (B, L) int64 -> states (B, L, H)."""
        states: SequencesT = self.text_encoder(tokens)
        return states

    def fuse(self, texts: SequencesT, context: Context | None) -> SequencesT:
        """Text states (B, L, H) -> states (B, L, H) after attending to `context`; None: to the text alone."""
        states: SequencesT = self.fusion_encoder(texts, context)
        return states

    def fuse_first(self, texts: SequencesT, context: Context) -> Tensor:
        """The result of `fuse` at position 0 alone, (B, H), which costs less."""
        return self.fusion_encoder.forward_first(texts, context)


class CCLM(nn.Module):
    """Encoders with the heads of pre-training: shared space, masked tokens, matching and boxes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden_size = config.text.hidden_size
        self.encoders = Encoders(config)
        self.space = SharedSpace(hidden_size, config.embed_dim, config.temperature)
        self.token_head = TokenHead(config.text)
        self.match_head = MlpHead(hidden_size, 2)
        self.box_head = MlpHead(hidden_size, 4)

    def token_projection(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States (M, H) -> what logits come from: vectors (M, H), word embeddings (V, H), and biases (V,)."""
        return self.token_head.hidden(states), self.encoders.text_encoder.embeddings.word.weight, self.token_head.bias

    def token_logits(self, states: Tensor) -> Tensor:
        """States (M, H) -> logits over the vocabulary (M, V). They share the text encoder's word embeddings."""
        logits: Tensor = self.token_head(states, self.encoders.text_encoder.embeddings.word.weight)
        return logits
