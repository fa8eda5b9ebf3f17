"""What training processes send each other of their gradients: all of it, or half the bytes."""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

GradCompression = Literal["none", "bf16"]


def compress_gradients(task: nn.Module, compression: GradCompression) -> None:
    """Set how the gradients of `task` are exchanged. Call it once, before the first step.

    With bf16, each process rounds its gradients to bfloat16, divided by the number of processes, and they are summed in
    bfloat16. The optimizer gets float32 tensors as before.

    Args:
        task: what `cclm.distributed.wrap` returned. In a single process nothing is exchanged, so nothing changes.
    """
    if compression == "bf16" and isinstance(task, nn.parallel.DistributedDataParallel):
        task.register_comm_hook(None, bf16_compress_hook)
