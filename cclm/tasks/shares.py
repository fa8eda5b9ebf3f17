"""Who evaluates what: items in batches, and batches in turns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cclm import distributed
from cclm.sequences import PackedSequences


@dataclass(frozen=True)
class Shares:
    """`total` items, cut into batches of `size` that the processes take in turn.

    The cut does not depend on the number of processes, so what is computed of a batch does not either.
    """

    total: int
    size: int

    def batches(self, of_rank: int | None = None) -> list[range]:
        """The batches of a process (this one by default), as ranges of items."""
        first = distributed.rank() if of_rank is None else of_rank
        starts = range(0, self.total, self.size)[first :: distributed.world_size()]
        return [range(start, min(start + self.size, self.total)) for start in starts]

    def items(self, of_rank: int | None = None) -> list[int]:
        """All items of a process."""
        return [item for batch in self.batches(of_rank) for item in batch]

    def is_mine(self, item: int) -> bool:
        return item // self.size % distributed.world_size() == distributed.rank()

    def order(self) -> Tensor:
        """(total,) int64: where each item stands when the items of all processes are joined by rank."""
        joined = [item for of_rank in range(distributed.world_size()) for item in self.items(of_rank)]
        return torch.tensor(joined, dtype=torch.int64).argsort()

    def gather(self, rows: Tensor | None) -> Tensor:
        """The rows of this process's items (n, ...) -> those of all items, in their order, on every process."""
        joined = torch.cat(distributed.gather_ragged(rows))
        return joined[self.order().to(joined.device)]

    def gather_packed(self, sequences: PackedSequences | None) -> PackedSequences:
        """The same for sequences, one an item."""
        data = torch.cat(distributed.gather_ragged(None if sequences is None else sequences.data))
        lengths = torch.cat(distributed.gather_ragged(None if sequences is None else sequences.lengths))
        return PackedSequences.of(data, lengths).select(self.order().to(data.device))
