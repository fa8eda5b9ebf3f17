"""Typed batches: what the data side hands to the tasks.

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
from typing import Any, Self

import torch
from torch import Tensor

from cclm.sequences import Sequences


class OnDevice:
    """What every batch can do: move as a whole."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same batch on `device`; `non_blocking` copies overlap with computing if the batch is pinned."""
        return _map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory, from which a GPU copies by itself. Needs CUDA."""
        return _map_tensors(self, lambda tensor: tensor if tensor.is_pinned() else tensor.pin_memory())


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _map_tensors(getattr(value, field.name), change) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


@dataclass(frozen=True)
class MaskedText(OnDevice):
    """Texts in which some tokens were replaced, and what stood there."""

    tokens: Sequences
    """B texts after masking."""
    rows: Tensor
    """(M,) int64: text of each masked position."""
    columns: Tensor
    """(M,) int64: place of each masked position in its text."""
    labels: Tensor
    """(M,) int64: the original token ids."""


@dataclass(frozen=True)
class ImageTextBatch(OnDevice):
    """Images with one caption each (or two, in two languages), pre-training."""

    images: Tensor
    """(B, R, R, 3) uint8"""
    text: Sequences
    masked: MaskedText
    second_text: Sequences | None = None
    """The second caption of each image where two are drawn (`sample_two_captions`)."""


@dataclass(frozen=True)
class RegionTextBatch(OnDevice):
    """Texts about whole images and about boxes in them; several texts share one image."""

    images: Tensor
    """(N, R, R, 3) uint8"""
    text: Sequences
    masked: MaskedText
    image_of_text: Tensor
    """(B,) int64: which image a text is about."""
    patches: Tensor
    """(B, 1 + P) bool: positions that a text sees; position 0 ([CLS]) always."""
    boxes: Tensor
    """(B, 4) float32: centre x, centre y, width, height, as parts of the image side."""
    is_whole_image: Tensor
    """(B,) bool: the text describes the whole image; its box is (.5, .5, 1, 1)."""


@dataclass(frozen=True)
class ParallelTextBatch(OnDevice):
    """A text and its translation."""

    source: Sequences
    source_masked: MaskedText
    target: Sequences


@dataclass(frozen=True)
class JoinedTextBatch(OnDevice):
    """Translation language modelling (TLM): a text and its translation, apart and as one masked sequence."""

    source: Sequences
    target: Sequences
    joined: MaskedText
    """`<s> a </s> b </s>` with masks in both halves."""


PretrainBatch = ImageTextBatch | RegionTextBatch | ParallelTextBatch | JoinedTextBatch
