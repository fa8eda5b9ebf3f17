"""Progress bars of commands. They are shown on stderr, and only if that is a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Never

from tqdm import tqdm


class ByteBar:
    """A bar that counts bytes. Its total grows as the work becomes known."""

    def __init__(self, title: str) -> None:
        self._bar: tqdm[Never] = tqdm(
            total=0, desc=title, unit="B", unit_scale=True, unit_divisor=1024, dynamic_ncols=True, disable=None
        )

    @property
    def total(self) -> float:
        return self._bar.total or 0

    @total.setter
    def total(self, size: float) -> None:
        self._bar.total = size

    def update(self, size: float) -> None:
        """Count bytes that are done."""
        self._bar.update(size)

    def __enter__(self) -> ByteBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()


def record_bar(title: str, total: int) -> tqdm[Never]:
    """A bar that counts records."""
    return tqdm(total=total, desc=title, unit=" records", dynamic_ncols=True, disable=None)
