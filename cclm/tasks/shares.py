"""Which process evaluates which items.

Dimension letters: n items of this process.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cclm import distributed
from cclm.sequences import PackedSequences


@dataclass(frozen=True)
class Shares:
    """`total` items, cut into batches that the processes take in turn.

    The batches do not depend on the number of processes. So the numbers that are computed from a batch do not, either.
    """

    total: int
    size: int
    """Items of a batch."""

    def batches(self, of_rank: int | None = None) -> list[range]:
        """The batches of process `of_rank` (default: this one), as ranges of items."""
        first = distributed.rank() if of_rank is None else of_rank
        starts = range(0, self.total, self.size)[first :: distributed.world_size()]
        return [range(start, min(start + self.size, self.total)) for start in starts]

    def items(self, of_rank: int | None = None) -> list[int]:
        """The items of process `of_rank` (default: this one)."""
        return [item for batch in self.batches(of_rank) for item in batch]

    def is_mine(self, item: int) -> bool:
        """Whether this process evaluates an item."""
        return item // self.size % distributed.world_size() == distributed.rank()

    def order(self) -> Tensor:
        """(total,) int64: the place of each item in the items of all processes joined by rank."""
        joined = [item for of_rank in range(distributed.world_size()) for item in self.items(of_rank)]
        return torch.tensor(joined, dtype=torch.int64).argsort()

    def gather(self, rows: Tensor | None) -> Tensor:
        """Rows (n, ...) of this process's items -> rows (total, ...) of all items in order, on every process.

        None stands for no rows.
        """
        joined = torch.cat(distributed.gather_ragged(rows))
        return joined[self.order().to(joined.device)]

    def gather_packed(self, sequences: PackedSequences | None) -> PackedSequences:
        """The same for sequences, one for each item."""
        data = torch.cat(distributed.gather_ragged(None if sequences is None else sequences.data))
        lengths = torch.cat(distributed.gather_ragged(None if sequences is None else sequences.lengths))
        return PackedSequences.of(data, lengths).select(self.order().to(data.device))
