"""Settings of the model: image encoder, text and fusion encoder, and where their weights start.

docs/method.md, section Model, says what they mean. px = pixels; numbers of tokens include `<s>` and `</s>`.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cclm.config.base import Count, Location, Probability, Settings


class VisionConfig(Settings):
    """The image encoder: Swin, or a ViT as CLIP or DeiT built it."""

    architecture: Literal["swin", "clip_vit", "deit"] = "swin"
    """clip_vit, deit: a ViT built as in CLIP or DeiT."""
    image_size: int = Field(gt=0)
    """Side of the square input image, px."""
    patch_size: int = Field(4, gt=0)
    """Side of one patch at the input, px. Swin halves the grid after every stage but the last."""
    embed_dim: int = Field(128, gt=0)
    """Width of the first Swin stage (it doubles from stage to stage); the width of a ViT."""
    depths: tuple[Count, ...] = Field((2, 2, 18, 2), min_length=1)
    """Blocks of each stage; one number for a ViT."""
    num_heads: tuple[Count, ...] = Field((4, 8, 16, 32), min_length=1)
    """Attention heads of each stage; one number for a ViT."""
    window_size: int = Field(7, gt=0)
    """Swin's attention window, in patches."""
    drop_path: Probability = 0.1
    """Stochastic depth of the last block; it grows linearly from 0."""
    weights: Location | None = None
    """File of initial weights: Microsoft's Swin file ({"model": ...}), or a timm state dict of a ViT."""

    @property
    def total_stride(self) -> int:
        """Side of one output patch at the input, px."""
        return self.patch_size << (len(self.depths) - 1)

    @property
    def width(self) -> int:
        """Width of an output patch's state."""
        return self.embed_dim << (len(self.depths) - 1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.depths) != len(self.num_heads):
            raise ValueError(f"depths has {len(self.depths)} stages and num_heads {len(self.num_heads)}")
        if self.architecture != "swin" and len(self.depths) != 1:
            raise ValueError(f"architecture {self.architecture} takes one number in depths and in num_heads")
        if self.image_size % self.total_stride:
            raise ValueError(f"image_size {self.image_size} is not a multiple of the total stride {self.total_stride}")
        for stage, heads in enumerate(self.num_heads):
            if self.embed_dim * 2**stage % heads:
                raise ValueError(f"num_heads[{stage}] = {heads} does not divide the stage's width")
        return self


class TextConfig(Settings):
    """The text encoder (first layers) and the fusion encoder (the others) of one XLM-R-shaped stack."""

    vocab_size: int = Field(250002, gt=4)
    """Tokens that the word embeddings know."""
    hidden_size: int = Field(1024, gt=0)
    """Width of a token's state; the image encoder's output must have the same width."""
    num_heads: int = Field(16, gt=0)
    """Attention heads of each layer."""
    intermediate_size: int = Field(4096, gt=0)
    """Inner width of the feed-forward blocks."""
    num_layers: int = Field(12, gt=0)
    """Layers of both encoders together."""
    num_text_layers: int = Field(6, gt=0)
    """Layers that see text alone. The layers after them also attend to the other view."""
    max_positions: int = Field(514, gt=0)
    """Longest text, tokens."""
    dropout: Probability = 0.1
    """Dropout of states."""
    attention_dropout: Probability = 0.1
    """Dropout of attention weights."""
    initializer_range: float = Field(0.02, ge=0)
    """Standard deviation of fresh weights."""
    tokenizer: Location = "data/xlm-roberta-large"
    """Folder of the tokenizer."""
    weights: Location | None = None
    """Folder of initial weights: a Hugging Face XLM-R (model.safetensors or pytorch_model.bin)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide hidden_size {self.hidden_size}")
        if self.num_text_layers >= self.num_layers:
            raise ValueError("num_text_layers must leave at least one of num_layers to the fusion encoder")
        return self


class ModelConfig(Settings):
    """The whole model. Its `weights` take precedence over the initial weights of its encoders."""

    vision: VisionConfig
    text: TextConfig = TextConfig()
    embed_dim: int = Field(256, gt=0)
    """Width of the space in which images and texts are compared."""
    temperature: float = Field(0.07, ge=0.001, le=0.5)
    """Initial value of the learnt temperature. Training keeps it between 0.001 and 0.5."""
    weights: Location | None = None
    """Initial weights of the whole model: a published checkpoint (.th) or a folder written by cclm."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.vision.width != self.text.hidden_size:
            raise ValueError(
                f"vision.embed_dim gives width {self.vision.width}, but cross-attention reads "
                f"text.hidden_size = {self.text.hidden_size}: the two must be equal"
            )
        return self
