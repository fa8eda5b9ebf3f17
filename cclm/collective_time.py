"""How long this process has spent in collectives (`cclm.distributed`), by its own clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_seconds = 0.0


def total() -> float:
    """Seconds so far."""
    return _seconds


@contextmanager
def collective() -> Iterator[None]:
    """A block that is one collective. It must hold no other one."""
    began = time.perf_counter()
    yield
    count_since(began)


def count_since(began: float) -> None:
    """Count the time since `began`, a value of `time.perf_counter`."""
    global _seconds
    _seconds += time.perf_counter() - began
