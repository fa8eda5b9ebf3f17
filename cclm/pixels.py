"""Decoded pixels become what an image encoder takes: done where the encoder is, so that bytes travel, not floats.

Dimension letters: N images, R image side in pixels.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the colours red, green and blue, as CLIP has them and published CCLM."""


def normalised(images: Tensor) -> Tensor:
    """(N, R, R, 3) uint8, RGB -> (N, 3, R, R) float32, channels_last in memory, with CLIP's mean and deviation."""
    side = images.shape[2]
    scale, shift = _scale_and_shift(side, images.device)
    # A row of pixels at a time: operations along 3 values only are slow.
    rows = torch.addcmul(shift, images.flatten(2), scale)  # (N, R, R * 3)
    return rows.unflatten(2, (side, 3)).permute(0, 3, 1, 2)  # (N, 3, R, R)


@functools.cache
def _scale_and_shift(side: int, device: torch.device) -> Tensor:
    """(2, R * 3) float32. Kept: to copy numbers to a GPU is to wait until it has done all that was asked of it."""
    scale = [1 / (255 * std) for std in STD]
    shift = [-mean / std for mean, std in zip(MEAN, STD, strict=True)]
    return torch.tensor([scale * side, shift * side], device=device)
