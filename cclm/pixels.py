"""Decoded pixels become the input of an image encoder. The encoder's device does it, so bytes travel, not floats.

Dimension letters: N images, R image side in pixels.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of red, green and blue in 0..1: CLIP's values, which published CCLM uses too."""


def normalised(images: Tensor) -> Tensor:
    """Normalise images (N, R, R, 3) uint8, RGB, with `MEAN` and `STD`.

    Returns:
        (N, 3, R, R) float32, channels_last in memory.
    """
    side = images.shape[2]
    scale, shift = _scale_and_shift(side, images.device)
    # Whole rows of pixels at once: operations along an axis of 3 values are slow.
    rows = torch.addcmul(shift, images.flatten(2), scale)  # (N, R, R * 3)
    return torch.unflatten(rows, 2, (side, 3)).permute(0, 3, 1, 2)  # (N, 3, R, R)


@functools.cache
def _scale_and_shift(side: int, device: torch.device) -> Tensor:
    """(2, R * 3) float32: what pixels are multiplied by, and what is added then.

    Cached, because copying numbers to a GPU waits until the GPU has finished all its work.
    """
    scale = [1 / (255 * std) for std in STD]
    shift = [-mean / std for mean, std in zip(MEAN, STD, strict=True)]
    return torch.tensor([scale * side, shift * side], device=device)
