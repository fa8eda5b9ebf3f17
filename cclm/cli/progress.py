"""Progress bars of commands: on a terminal only, on stderr."""

from __future__ import annotations

from tqdm import tqdm


def byte_bar(what: str) -> tqdm:
    """A bar that counts bytes; its total is set as the work becomes known."""
    return tqdm(total=0, desc=what, unit="B", unit_scale=True, unit_divisor=1024, dynamic_ncols=True, disable=None)


def record_bar(what: str, total: int) -> tqdm:
    """A bar that counts records."""
    return tqdm(total=total, desc=what, unit=" records", dynamic_ncols=True, disable=None)
