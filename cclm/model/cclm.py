"""The architecture on one page: two encoders, a fusion encoder, and the heads of pre-training (paper section 3.1).

Dimension letters: N images, B texts, R pixels, P patches, L tokens, H width.
"""

from __future__ import annotations

from torch import Tensor, nn

from cclm.config.model import ModelConfig
from cclm.model.attention import Context
from cclm.model.heads import MlpHead, SharedSpace
from cclm.model.text import FusionEncoder, TextEncoder, TokenHead
from cclm.model.vision import ImageEncoder
from cclm.sequences import AnySequences, Sequences


class Encoders(nn.Module):
    """Image, text and fusion encoders: the part that every task keeps."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder(config.vision)
        self.text_encoder = TextEncoder(config.text)
        self.fusion_encoder = FusionEncoder(config.text)

    def encode_images(self, images: Tensor) -> Sequences:
        """(N, R, R, 3) uint8 (or float, see `ImageEncoder`) -> states (N, 1 + P, H)."""
        return self.image_encoder(images)

    def encode_text(self, tokens: AnySequences) -> AnySequences:
        """Token ids (B, L) -> states (B, L, H)."""
        return self.text_encoder(tokens)

    def fuse(self, texts: AnySequences, context: Context | None) -> AnySequences:
        """Text states (B, L, H) -> states (B, L, H) that know their context."""
        return self.fusion_encoder(texts, context)

    def fuse_first(self, texts: AnySequences, context: Context) -> Tensor:
        """`fuse` at position 0 alone, (B, H), which costs less."""
        return self.fusion_encoder.first(texts, context)


class CCLM(nn.Module):
    """Encoders with the heads of pre-training."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden_size = config.text.hidden_size
        self.encoders = Encoders(config)
        self.space = SharedSpace(hidden_size, config.embed_dim, config.temperature)
        self.token_head = TokenHead(config.text)
        self.match_head = MlpHead(hidden_size, 2)
        self.box_head = MlpHead(hidden_size, 4)

    def token_logits(self, states: Tensor) -> Tensor:
        """(M, H) -> scores over the vocabulary (M, V), by the text encoder's word embeddings."""
        return self.token_head(states, self.encoders.text_encoder.embeddings.word.weight)
