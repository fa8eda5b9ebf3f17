"""Dropout whose random numbers cost little on a CPU.

There, torch draws one number for each element at 7 to 10 ns. Here, one draw of 64 bits decides on four elements, at
about 1 ns an element.

Both take their numbers from torch's default generator, so that the seed of a step decides on all of them. The masks
that a seed gives differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 1 << 16
"""Values of the 16 bits that decide on one element."""


def keep_factors(shape: Sequence[int], probability: float, dtype: torch.dtype, *, cheap: bool = True) -> Tensor:
    """What dropout multiplies elements with: 0 with the given probability, otherwise 1 / (1 - probability).

    The probability is rounded to a multiple of 2^-16. The factor is that of the rounded one, so the mean stays 1.

    Args:
        probability: at least 0, below 1 - 2^-17.
        cheap: False: draw a number for each element, as torch does.

    Returns:
        A tensor of that shape, on the CPU.
    """
    if not cheap:
        return torch.empty(*shape, dtype=dtype).bernoulli_(1 - probability).div_(1 - probability)
    count = math.prod(shape)
    dropped = round(probability * _LEVELS)
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    factors = torch.empty(count, dtype=dtype)
    torch.ge(bits, dropped - _LEVELS // 2, out=factors)
    return factors.mul_(_LEVELS / (_LEVELS - dropped)).view(*shape)


class Dropout(nn.Dropout):
    """`nn.Dropout`, with `keep_factors` on a CPU."""

    cheap: bool = True
    """Whether a CPU draws as `keep_factors` does (`cclm.model.fast_paths`)."""

    def forward(self, input: Tensor) -> Tensor:
        """States (..., H) -> (..., H)."""
        if self._draws_cheaply(input):
            dropped: Tensor = input * keep_factors(input.shape, self.p, input.dtype)
            return dropped
        return F.dropout(input, self.p, self.training)

    def added(self, input: Tensor, residual: Tensor) -> Tensor:
        """`forward(input) + residual`, both (..., H)."""
        if self._draws_cheaply(input):
            factors = keep_factors(input.shape, self.p, residual.dtype)
            return torch.addcmul(residual, input.to(residual.dtype), factors)
        added: Tensor = self(input) + residual
        return added

    def _draws_cheaply(self, input: Tensor) -> bool:
        return self.cheap and self.training and input.device.type == "cpu" and draws_at(self.p)


def draws_at(probability: float) -> bool:
    """Whether `keep_factors` takes a probability, and has something to do."""
    return 0 < round(probability * _LEVELS) < _LEVELS
