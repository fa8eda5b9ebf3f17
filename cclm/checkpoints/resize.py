"""Resampling Swin's relative-position tables for another window, as published (BEiT's scheme, arXiv 2106.08254).

Dimension letters: s = 2 * window - 1 rows and columns of a table, A heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from scipy.interpolate import RectBivariateSpline
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor


def _progression(side: int, new_side: int) -> np.ndarray:
    """Coordinates of the source rows: 0 and +-(1, 1 + q, 1 + q + q^2, ...), q chosen so that they reach the target's.

    Returns (side,) float64.
    """
    steps = side // 2
    left, right = 1.01, 1.5
    while right - left > 1e-6:
        q = (left + right) / 2
        if (1 - q**steps) / (1 - q) > new_side // 2:
            right = q
        else:
            left = q
    outward = np.cumsum(q ** np.arange(steps))  # 1, 1 + q, ...
    return np.concatenate([-outward[::-1], [0.0], outward])


def resize_position_table(table: Tensor, new_window: int) -> Tensor:
    """Relative-position table ((2w-1)^2, A) -> ((2 * new_window - 1)^2, A), same dtype.

    Head by head: an interpolating bicubic spline over source coordinates in geometric progression, read at integer
    steps around 0; beyond the last source coordinate the edge value holds.
    """
    side, new_side = math.isqrt(table.shape[0]), 2 * new_window - 1
    if side == new_side:
        return table.clone()
    source = _progression(side, new_side)
    target = np.arange(-(new_side // 2), new_side // 2 + 1, dtype=np.float64).clip(source[0], source[-1])
    heads = table.double().numpy().reshape(side, side, -1)  # (s, s, A)
    resampled = [
        RectBivariateSpline(source, source, heads[:, :, head], kx=3, ky=3)(target, target)
        for head in range(heads.shape[2])
    ]
    stacked = np.stack(resampled, axis=-1).reshape(new_side * new_side, -1)  # ((2w'-1)^2, A)
    return torch.from_numpy(stacked).to(table.dtype)


def resample_positions(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fit weights that were made at one image size to a model of another: position tables take the wanted sizes.

    Swin's relative tables and a ViT's absolute ones are resampled where they differ in the number of positions alone.
    Everything else, and what `wanted` does not have, stays as it is.
    """
    return {
        name: _resampled(name, tensor, wanted[name]) if name in wanted else tensor for name, tensor in given.items()
    }


def _resampled(name: str, given: Tensor, wanted: Tensor) -> Tensor:
    if given.shape == wanted.shape or given.ndim != wanted.ndim or given.shape[-1] != wanted.shape[-1]:
        return given
    if name.endswith("relative_position_bias_table") and given.ndim == 2:  # ((2w-1)^2, A); splines need w = 3
        if _is_square(len(given)) and _is_square(len(wanted)) and len(given) >= 25:
            return resize_position_table(given, (math.isqrt(len(wanted)) + 1) // 2)
    if name.endswith("pos_embed") and given.ndim == 3 and _is_square(given.shape[1] - 1):  # (1, 1 + patches, H)
        side = math.isqrt(wanted.shape[1] - 1)
        resampled: Tensor = resample_abs_pos_embed(given, new_size=[side, side])
        return resampled
    return given


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number
