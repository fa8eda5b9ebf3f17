"""Typed batches: what the tasks get from the input pipeline.

Dimension letters, used all over the project:
    B  texts of a batch            N  images of a batch (= B unless texts share images)
    L  tokens of the longest text  M  masked positions of a batch, all texts together
    R  image side in pixels        P  patches of an image, (R / total stride)^2; position 0 is the image's [CLS]

Text is `cclm.sequences.Sequences` of token ids, padded on the right with `<pad>` to the longest text of the batch.
Images are uint8, (N, R, R, 3), RGB; the image encoder normalises them, where it runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from cclm.sequences import Sequences


@dataclass(frozen=True)
class TensorDataclass:
    """A dataclass of tensors that moves as a whole, with the dataclasses in its fields."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same on `device`. With `non_blocking`, copies from pinned memory overlap with computing."""
        return self._map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same in page-locked memory, from which a GPU copies by itself. Needs CUDA."""
        return self._map_tensors(lambda tensor: tensor if tensor.is_pinned() else tensor.pin_memory())

    def _map_tensors(self, change: Callable[[Tensor], Tensor]) -> Self:
        fields = dataclasses.fields(self)
        return dataclasses.replace(self, **{each.name: _changed(getattr(self, each.name), change) for each in fields})


def _changed(value: object, change: Callable[[Tensor], Tensor]) -> object:
    """A field's value with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return dataclasses.replace(value, **{each.name: _changed(getattr(value, each.name), change) for each in fields})
    return value


@dataclass(frozen=True)
class MaskedText(TensorDataclass):
    """Texts in which some tokens were replaced, and the original tokens."""

    tokens: Sequences
    """B texts after masking."""
    rows: Tensor
    """(M,) int64: text of each masked position."""
    columns: Tensor
    """(M,) int64: index of each masked position in its text."""
    labels: Tensor
    """(M,) int64: the original token ids."""


@dataclass(frozen=True)
class ImageTextBatch(TensorDataclass):
    """Images with one caption each, or with two in different languages; pre-training."""

    images: Tensor
    """(B, R, R, 3) uint8"""
    text: Sequences
    masked: MaskedText
    second_text: Sequences | None = None
    """The second caption of each image where two are drawn (`sample_two_captions`)."""


@dataclass(frozen=True)
class RegionTextBatch(TensorDataclass):
    """Texts about whole images and about boxes in them; several texts share one image."""

    images: Tensor
    """(N, R, R, 3) uint8"""
    text: Sequences
    masked: MaskedText
    image_of_text: Tensor
    """(B,) int64: index into `images` of what a text is about."""
    patches: Tensor
    """(B, 1 + P) bool: the positions of its image that a text sees; position 0 ([CLS]) always."""
    boxes: Tensor
    """(B, 4) float32: centre x, centre y, width, height, as fractions of the image's side."""
    is_whole_image: Tensor
    """(B,) bool: the text describes the whole image; its box is (.5, .5, 1, 1)."""


@dataclass(frozen=True)
class ParallelTextBatch(TensorDataclass):
    """A text and its translation."""

    source: Sequences
    source_masked: MaskedText
    target: Sequences


@dataclass(frozen=True)
class JoinedTextBatch(TensorDataclass):
    """A text and its translation, for translation language modelling (TLM): apart, and as one masked sequence."""

    source: Sequences
    target: Sequences
    joined: MaskedText
    """`<s> a </s> b </s>` with masks in both halves."""


PretrainBatch = ImageTextBatch | RegionTextBatch | ParallelTextBatch | JoinedTextBatch
