"""Which records and images `cclm data check` reads, and reading them in threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cclm.data.stored.scan import Advance

_THREADS = 16
_BATCH = 256  # records or images between two updates of the progress bar


@dataclass(frozen=True)
class Sampling:
    """How much of each source to read."""

    size: int | None
    """Records or images of each source, evenly spread. None: all of them."""
    advance: Advance = lambda _: None

    def choose(self, count: int) -> Sequence[int]:
        """The sample of `count` records, by number, rising."""
        if self.size is None or count <= self.size:
            return range(count)
        return [int(number) for number in np.linspace(0, count - 1, self.size).astype(int)]


def for_each(read: Callable[[int], None], numbers: Sequence[int], advance: Advance) -> None:
    """Call `read` with every number, several at a time."""
    # Threads are enough: JPEGs decode outside of Python's lock, and stores answer slowly.
    with ThreadPoolExecutor(_THREADS) as pool:
        for at in range(0, len(numbers), _BATCH):
            part = numbers[at : at + _BATCH]
            list(pool.map(read, part))
            advance(len(part))
