"""Losses and gradient norms under published names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cclm.parity.comparison import Item
from cclm.parity.golden import Golden


class LossesAndNorms(NamedTuple):
    """What one batch gives."""

    items: dict[str, Item]
    """The losses by name, `grad_norm`, and `grad_norm/<published name>`."""
    total: Tensor
    """() sum of the losses."""


def losses_and_norms(
    golden: Golden, task: nn.Module, batch: object, *, finetuned: bool = False, watched: list[str]
) -> LossesAndNorms:
    """Run one batch forward and backward.

    Args:
        watched: published names of parameters whose own gradient norms are wanted, too.
    """
    task.zero_grad()
    losses = task(batch, torch.Generator().manual_seed(0))
    total = torch.stack(list(losses.values())).sum()
    torch.autograd.backward(total)
    items: dict[str, Item] = {name: loss.item() for name, loss in losses.items()}
    return LossesAndNorms(items | gradient_norms(golden, task, finetuned=finetuned, watched=watched), total)


def gradient_norms(golden: Golden, task: nn.Module, *, finetuned: bool, watched: list[str]) -> dict[str, Item]:
    """L2 norms of the present gradients: of all parameters together, tied ones once, and of each one in `watched`."""
    gradients = {
        golden.name(name, finetuned=finetuned): parameter.grad
        for name, parameter in task.named_parameters()
        if parameter.grad is not None
    }
    norms: dict[str, Item] = {"grad_norm": torch.stack([grad.norm() for grad in gradients.values()]).norm().item()}
    for name in watched:
        if name in gradients:
            norms[f"grad_norm/{name}"] = gradients[name].norm().item()
    return norms


def watched_names(expected: dict[str, Item], prefix: str, usual: Iterable[str]) -> list[str]:
    """Published names of parameters whose gradient norms are compared.

    These are the usual ones, so that a folder without them is noticed, and all others that the folder has under
    `prefix`/.
    """
    given = (name.removeprefix(f"{prefix}/") for name in expected if name.startswith(f"{prefix}/"))
    return list(dict.fromkeys([*usual, *given]))
