"""Finds where the records of a data file start, in one pass. Only line breaks and tar headers are parsed."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cclm import storage
from cclm.data.stored.formats import Format, format_of, looks_like
from cclm.data.stored.tar import DamagedTarError, record_starts, refuse_damaged
from cclm.errors import UserError

_BLOCK = 8 << 20  # bytes of one read
_IS_SPACE = np.zeros(256, dtype=bool)
_IS_SPACE[list(b" \t\r\n\v\f")] = True

Advance = Callable[[int], object]
"""Called with the number of bytes (or records) done since the last call, for a progress bar."""

Offsets = NDArray[np.uint64]
"""(n + 1,) little-endian: the start of each of n records, then the end of the last one."""


class BlockReader:
    """Reads ranges of a file, in rising order, by large reads. Bytes between the ranges need not be read."""

    def __init__(self, url: str, size: int, advance: Advance = lambda _: None) -> None:
        self._url, self._size, self._advance = url, size, advance
        self._start, self._data = 0, b""
        self._done = 0

    def read(self, start: int, end: int) -> bytes:
        """Bytes [start, end)."""
        if not (self._start <= start and end <= self._start + len(self._data)):
            self._data = storage.read_range(self._url, start, max(end, min(start + _BLOCK, self._size)))
            self._start = start
            self.report(start + len(self._data))
        return self._data[start - self._start : end - self._start]

    def report(self, done: int) -> None:
        """Report to the progress bar that the first `done` bytes of the file are done."""
        self._advance(max(0, done - self._done))
        self._done = max(self._done, done)


def build_offsets(
    where: str, url: str, size: int, advance: Advance = lambda _: None, *, strict: bool = False
) -> Offsets:
    """The offsets of a file of `size` bytes.

    Args:
        where: the config key or the command, for messages.
        strict: also refuse a file of lines if none of its first 100 lines is a JSON object.

    Raises:
        UserError: the file is not in the format that its name says.
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
    blocks.report(size)
    return np.array(starts, dtype="<u8")


def _refuse_other_lines(where: str, url: str, head: bytes) -> None:
    """Refuse a file if none of its first 100 lines is a JSON object: single broken records are no reason to refuse.

    `head` is the first block of the file.
    """
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


def _line_offsets(blocks: BlockReader, size: int) -> Offsets:
    starts: list[Offsets] = []
    base, rest = 0, b""  # `rest` is the unfinished line at the end of the last block; its first byte is `base`
    for at in range(0, size, _BLOCK):
        end = min(at + _BLOCK, size)
        block = rest + blocks.read(at, end)
        cut = len(block) if end == size else block.rfind(b"\n") + 1
        lines, rest = block[:cut], block[cut:]
        starts.append(_record_starts(lines) + np.uint64(base))
        base += cut
    return np.concatenate([*starts, np.array([size])]).astype("<u8")


def _record_starts(lines: bytes) -> Offsets:
    """(n,) uint64: the starts of the lines that are not blank, in a buffer of whole lines."""
    if not lines:
        return np.zeros(0, dtype=np.uint64)
    values = np.frombuffer(lines, dtype=np.uint8)
    after_breaks = np.flatnonzero(values == ord("\n")) + 1
    starts = np.concatenate([np.zeros(1, dtype=np.int64), after_breaks])
    if starts[-1] == len(lines):
        starts = starts[:-1]
    keep = np.ones(len(starts), dtype=bool)
    for line in np.flatnonzero(_IS_SPACE[values[starts]]):  # few: only these can be blank
        end = starts[line + 1] if line + 1 < len(starts) else len(lines)
        keep[line] = bool(lines[starts[line] : end].strip())
    return starts[keep].astype(np.uint64)
