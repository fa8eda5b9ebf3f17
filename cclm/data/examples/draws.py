"""Orders that are drawn only as far as they are needed: a record's draws are a part of what reading it costs."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def in_random_order(items: Iterable[T], rng: random.Random) -> Iterator[T]:
    """`items`, every order as likely as every other; one draw for each that is asked for, none for the last."""
    left = list(items)
    while len(left) > 1:
        at = int(rng.random() * len(left))  # its bias, 2**-53 an item, cannot be seen; randrange takes 5 times as long
        left[at], left[-1] = left[-1], left[at]
        yield left.pop()
    yield from left
