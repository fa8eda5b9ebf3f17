"""AdamW with the four parameter groups of the published training, and its state on all processes."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn

from cclm import distributed
from cclm.checkpoints.load import optimizer_tensors, set_optimizer_tensors
from cclm.config.optimization import OptimizerConfig

_NO_DECAY = ("bias", "LayerNorm.weight", "norm.weight", "norm1.weight", "norm2.weight")


@runtime_checkable
class HasFreshParameters(Protocol):
    """A task that knows which of its parameters have no pre-trained weights."""

    def fresh_parameters(self) -> set[str]: ...


def decays(name: str) -> bool:
    """Whether weight decay applies to our parameter `name`.

    As published, it does not apply to biases, nor to LayerNorms of encoders and token heads. Swin's position tables,
    called `..._bias_table`, count as biases. LayerNorms inside the matching, box and class heads do decay.
    """
    return not any(part in name for part in _NO_DECAY)


def parameter_groups(task: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups in the published order: (lr, decay), (lr, none), (lr_mult * lr, decay), (lr_mult * lr, none).

    The last two hold the task's fresh parameters. Each group also carries `names`, in the order of its `params`, by
    which optimizer state is saved (docs/method.md, section Optimisation).

    Raises:
        TypeError: the task has no `fresh_parameters`.
    """
    if not isinstance(task, HasFreshParameters):
        raise TypeError(f"{type(task).__name__} has no fresh_parameters")
    fresh = task.fresh_parameters()
    groups = []
    for is_fresh, lr in ((False, config.lr), (True, config.lr * config.lr_mult)):
        for with_decay, weight_decay in ((True, config.weight_decay), (False, 0.0)):
            members = [
                (name, parameter)
                for name, parameter in task.named_parameters()
                if (name in fresh) == is_fresh and decays(name) == with_decay
            ]
            groups.append(
                {
                    "params": [parameter for _, parameter in members],
                    "names": [name for name, _ in members],
                    "lr": lr,
                    "weight_decay": weight_decay,
                }
            )
    return groups


def build_optimizer(task: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over `task`'s parameters. It is the fused one, which is the fastest on CPUs, too."""
    return torch.optim.AdamW(parameter_groups(task, config), betas=config.betas, eps=config.eps, fused=True)


class _TensorForm(NamedTuple):
    shape: torch.Size
    dtype: torch.dtype
    device: str
    """Type of the device."""

    def empty(self) -> torch.Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device=self.device)


def share_optimizer_state(optimizer: torch.optim.Optimizer, source: str) -> None:
    """Set the state of the optimizer on every process to that of the first one.

    Args:
        source: folder of the checkpoint, for messages.
    """
    is_first = distributed.rank() == 0
    tensors = optimizer_tensors(optimizer) if is_first else {}
    mine = {name: _TensorForm(tensor.shape, tensor.dtype, tensor.device.type) for name, tensor in tensors.items()}
    forms: dict[str, _TensorForm] = distributed.gather_objects(mine)[0]
    if not is_first:
        tensors = {name: form.empty() for name, form in forms.items()}
    for tensor in tensors.values():
        distributed.broadcast(tensor)
    if not is_first:
        set_optimizer_tensors(optimizer, tensors, source)
