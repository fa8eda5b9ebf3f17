"""Progress bars of commands. They are shown on stderr, and only if that is a terminal."""

from __future__ import annotations

from typing import Never

from tqdm import tqdm


def byte_bar(title: str) -> tqdm[Never]:
    """A bar that counts bytes. Its total grows as the work becomes known."""
    return tqdm(total=0, desc=title, unit="B", unit_scale=True, unit_divisor=1024, dynamic_ncols=True, disable=None)


def record_bar(title: str, total: int) -> tqdm[Never]:
    """A bar that counts records."""
    return tqdm(total=total, desc=title, unit=" records", dynamic_ncols=True, disable=None)
