"""Cross-entropy over the vocabulary without its logits in memory.

The gradient of the loss is computed together with the loss, some tokens at a time, so that logits are needed once and
for some tokens only. Idea: arXiv 2411.09009 (Cut Cross-Entropy), and Liger Kernel.

Dimension letters: M masked tokens, H width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 26}
"""Of the logits that are in memory at once: on a CPU few enough for its cache, on a GPU enough to keep it busy."""


def fused_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the logits `hidden @ weight.T + bias`, () float32.

    Matrix products are in the dtype of autocast where that is on; the softmax is in float32.

    Args:
        hidden: (M, H).
        weight: (V, H).
        bias: (V,).
        labels: (M,) int64.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    loss: Tensor = _FusedCrossEntropy.apply(hidden, weight, bias, labels, dtype)
    return loss


class _FusedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
        count, vocabulary = len(labels), len(weight)
        rows = max(1, _ELEMENTS.get(hidden.device.type, 1 << 26) // vocabulary)
        with torch.autocast(hidden.device.type, enabled=False):
            states, words, offset = hidden.to(dtype), weight.to(dtype), bias.to(dtype)
            total = hidden.new_zeros((), dtype=torch.float32)
            of_hidden, of_weight = torch.empty_like(states), None
            of_bias = torch.zeros_like(bias, dtype=torch.float32)
            for start in range(0, count, rows):
                part = slice(start, start + rows)
                logits = torch.addmm(offset, states[part], words.T).float()
                right = labels[part, None]
                log_total = logits.logsumexp(dim=1, keepdim=True)
                total += (log_total - logits.gather(1, right)).sum()
                gradient = logits.sub_(log_total).exp_()  # probabilities
                gradient.scatter_add_(1, right, torch.full_like(right, -1, dtype=torch.float32)).div_(count)
                of_bias += gradient.sum(dim=0)
                gradient = gradient.to(dtype)
                torch.mm(gradient, words, out=of_hidden[part])
                of_words = (gradient.T @ states[part]).to(weight.dtype)
                of_weight = of_words if of_weight is None else of_weight.add_(of_words)
        if of_weight is None:
            of_weight = torch.zeros_like(weight)
        ctx.save_for_backward(of_hidden.to(hidden.dtype), of_weight, of_bias.to(bias.dtype))
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        of_hidden, of_weight, of_bias = ctx.saved_tensors
        return of_hidden * gradient, of_weight.mul_(gradient), of_bias * gradient, None, None
