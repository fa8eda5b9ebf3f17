"""Progress of long work other than training: a bar on a terminal, nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def with_progress(items: Iterable[Item], total: int, what: str, *, active: bool, unit: str = "batch") -> Iterator[Item]:
    """`items`, counted by a bar that disappears at their end.

    Args:
        what: title of the bar.
        active: whether this process reports.
    """
    shown = active and sys.stderr.isatty()
    yield from tqdm(items, total=total, desc=what, unit=unit, disable=not shown, leave=False, dynamic_ncols=True)
