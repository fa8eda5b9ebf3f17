"""Gradients of a whole batch with the memory of a part of it.

A step cuts each of its large computations into parts. A part is first computed without keeping anything but its result,
and all results are there when contrastive losses and hard negatives need the whole batch. In the backward pass a part
is computed once more, with the same random numbers, and its gradients are added to those of the parts before. This is
what GradCache (arXiv 2101.06983) does for encoders, with activation checkpointing of torch in place of two passes of
our own: there is one graph and one backward pass, so DistributedDataParallel works as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cclm.sequences import AnySequences, PackedSequences, Sequences

_ResultT = TypeVar("_ResultT")


def sizes_of_parts(count: int, parts: int) -> list[int]:
    """Cut `count` rows into `parts` parts, or fewer where there are fewer rows. Sizes differ by 1 at most."""
    number = min(parts, count)
    return [count // number + (part < count % number) for part in range(number)]


def rows_of_parts(count: int, parts: int, device: torch.device) -> tuple[Tensor, ...]:
    """The numbers (b,) int64 of the rows of each part."""
    return torch.split(torch.arange(count, device=device), sizes_of_parts(count, parts))


def in_parts(
    compute: Callable[[AnySequences], AnySequences], sequences: AnySequences, number_of_parts: int
) -> AnySequences:
    """`compute(sequences)`, where a sequence's result depends on that sequence alone; a part at a time."""
    if number_of_parts == 1:
        return compute(sequences)
    parts = sequences.split(sizes_of_parts(len(sequences), number_of_parts))
    return concat([twice(partial(compute, part), sequences.device) for part in parts])


def twice(compute: Callable[[], _ResultT], device: torch.device) -> _ResultT:
    """`compute()`, which is called again in the backward pass and keeps nothing for it until then.

    Both calls draw the same numbers from torch's default generators of the CPU and of `device`.
    """
    if not torch.is_grad_enabled():
        return compute()
    # From its argument, torch knows the device whose generator is to be set back.
    result: _ResultT = checkpoint(lambda _: compute(), torch.empty(0, device=device), use_reentrant=False)
    return result


def concat(parts: Sequence[AnySequences]) -> AnySequences:
    """All sequences of all parts, which have the same layout."""
    packed = [part for part in parts if isinstance(part, PackedSequences)]
    padded = [part for part in parts if isinstance(part, Sequences)]
    if packed and padded:
        raise TypeError("some of the parts are packed, others padded")
    return PackedSequences.concat(packed) if packed else Sequences.concat(padded)
