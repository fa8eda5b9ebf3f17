"""One pass over a data file: where its records start. Nothing is parsed beyond line breaks and tar headers."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from cclm import storage
from cclm.data.stored.formats import Format, format_of, looks_like
from cclm.data.stored.tar import DamagedTarError, record_starts, refuse_damaged
from cclm.errors import UserError

_BLOCK = 8 << 20  # bytes of one read
_IS_SPACE = np.zeros(256, dtype=bool)
_IS_SPACE[list(b" \t\r\n\v\f")] = True

Advance = Callable[[int], object]
"""Told of each number of bytes that is done, for a progress bar."""


class BlockReader:
    """Ranges of a file, in rising order, by large reads. The scan of a tar skips over what it need not see."""

    def __init__(self, url: str, size: int, advance: Advance = lambda _: None) -> None:
        self._url, self._size, self._advance = url, size, advance
        self._start, self._data = 0, b""
        self._done = 0

    def read(self, start: int, end: int) -> bytes:
        """Bytes [start, end)."""
        if not (self._start <= start and end <= self._start + len(self._data)):
            self._data = storage.read_range(self._url, start, max(end, min(start + _BLOCK, self._size)))
            self._start = start
            self.tell(start + len(self._data))
        return self._data[start - self._start : end - self._start]

    def tell(self, done: int) -> None:
        self._advance(max(0, done - self._done))
        self._done = max(self._done, done)


def build_offsets(
    where: str, url: str, size: int, advance: Advance = lambda _: None, *, strict: bool = False
) -> np.ndarray:
    """Scan a file of `size` bytes: (n + 1,) little-endian uint64, the start of each record and the end of the last.

    Args:
        strict: refuse lines of which none of the first is a JSON object.

    Raises:
        UserError: it is not what its name says; `where` is the config key, or the command.
    """
    blocks = BlockReader(url, size, advance)
    kind = format_of(url)
    found = looks_like(blocks.read(0, min(size, 512)))
    if found is not None and (kind is Format.LINES or found != "tar"):
        raise UserError(f"{where}: {url} holds {found} data, not {kind.value}; give it a name that says so")
    if kind is Format.LINES:
        if strict:
            _refuse_other_lines(where, url, blocks.read(0, min(size, _BLOCK)))
        return _line_offsets(blocks, size)
    try:
        starts = record_starts(blocks.read, size)
    except DamagedTarError as error:
        raise refuse_damaged(where, url, error) from None
    blocks.tell(size)
    return np.array(starts, dtype="<u8")


def _refuse_other_lines(where: str, url: str, head: bytes) -> None:
    """`head` is the file's first block. One record may be broken; where none of the first 100 is one, nothing is."""
    whole = head if len(head) < _BLOCK else head[: head.rfind(b"\n") + 1]
    lines = [(number, line) for number, line in enumerate(whole.split(b"\n", 100)[:100], 1) if line.strip()]
    if lines and not any(_is_object(line) for _, line in lines):
        raise UserError(
            f"{where}: {url}:{lines[0][0]} is no JSON object, nor is any line after it, so the file is not line-JSON; "
            "name data files, with one record as {...} on each line, or tar shards ending in .tar"
        )


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _line_offsets(blocks: BlockReader, size: int) -> np.ndarray:
    starts: list[np.ndarray] = []
    base, rest = 0, b""  # `rest` is the unfinished line at the end of the last block, and starts at `base`
    for at in range(0, size, _BLOCK):
        end = min(at + _BLOCK, size)
        block = rest + blocks.read(at, end)
        cut = len(block) if end == size else block.rfind(b"\n") + 1
        lines, rest = block[:cut], block[cut:]
        starts.append(_record_starts(lines) + np.uint64(base))
        base += cut
    return np.concatenate([*starts, np.array([size])]).astype("<u8")


def _record_starts(lines: bytes) -> np.ndarray:
    """(n,) uint64: starts of the lines that are not blank in a buffer of whole lines."""
    if not lines:
        return np.zeros(0, dtype=np.uint64)
    values = np.frombuffer(lines, dtype=np.uint8)
    after_breaks = np.flatnonzero(values == ord("\n")) + 1
    starts = np.concatenate([np.zeros(1, dtype=np.int64), after_breaks])
    if starts[-1] == len(lines):
        starts = starts[:-1]
    keep = np.ones(len(starts), dtype=bool)
    for line in np.flatnonzero(_IS_SPACE[values[starts]]):  # rare: only these can be blank
        end = starts[line + 1] if line + 1 < len(starts) else len(lines)
        keep[line] = bool(lines[starts[line] : end].strip())
    return starts[keep].astype(np.uint64)
