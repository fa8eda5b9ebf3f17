"""Random orders, drawn only as far as they are used: drawing is a noticeable part of what a record costs."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def in_random_order(items: Iterable[T], rng: random.Random) -> Iterator[T]:
    """`items` in an order that is uniform over all orders. Each item taken costs one draw, the last one none."""
    remaining = list(items)
    while len(remaining) > 1:
        # Biased by 2**-53 for each item, which cannot be noticed; randrange is exact and takes 5 times as long.
        at = int(rng.random() * len(remaining))
        remaining[at], remaining[-1] = remaining[-1], remaining[at]
        yield remaining.pop()
    yield from remaining
