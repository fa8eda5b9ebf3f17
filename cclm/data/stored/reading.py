"""Reads all records of a data file from start to end: line-JSON or tar, compressed or not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cclm import storage
from cclm.data.stored.formats import Format
from cclm.data.stored.scan import Advance, BlockReader
from cclm.data.stored.tar import DamagedTarError, members, write_member
from cclm.errors import UserError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

UNREADABLE = (".zst", ".zip")
_TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
_UNKNOWN_SIZE = 2**63
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, DamagedTarError)


@dataclass(frozen=True, slots=True)
class RawRecord:
    """The bytes of one record, and where they are in the file."""

    data: bytes
    """A line, or the members of a tar that make up the record."""
    place: str
    """For messages."""


def _open_gzip(file: io.BufferedReader[Stream]) -> io.BufferedIOBase:
    return gzip.GzipFile(fileobj=file, mode="rb")


_CODECS: dict[str, Callable[[io.BufferedReader[Stream]], io.BufferedIOBase]] = {
    ".gz": _open_gzip,
    ".tgz": _open_gzip,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}


def format_inside(url: str) -> Format:
    """The format of a file when it is decompressed."""
    return Format.TAR if url.endswith(_TARS) else Format.LINES


def read_records(where: str, url: str, advance: Advance) -> Iterator[RawRecord]:
    """All records of a file, in order, in one pass. `where` is the command, for messages.

    Raises:
        UserError: the file is damaged or cut off, or it changes while it is read.
    """
    stat = storage.fingerprint(url)
    file = io.BufferedReader(Stream(url, stat.size, advance), 1 << 20)
    codec = next((opens for ending, opens in _CODECS.items() if url.endswith(ending)), None)
    try:
        with file if codec is None else codec(file) as plain:
            yield from _tar_records(url, plain) if format_inside(url) is Format.TAR else _lines(url, plain)
    except _DAMAGE as error:
        raise UserError(f"{where}: {url} is damaged or cut off ({error}); copy it again") from None
    except OSError as error:
        if str(error) != "Invalid data stream":  # bz2 has no exception class for damage, only this text.
            raise
        raise UserError(f"{where}: {url} is damaged ({error}); copy it again") from None
    if storage.fingerprint(url) != stat:
        raise UserError(f"{where}: {url} changed while it was read; try again when it is written")


def _lines(url: str, file: io.BufferedIOBase) -> Iterator[RawRecord]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield RawRecord(line, f"{url}:{number}")


def _tar_records(url: str, file: io.BufferedIOBase) -> Iterator[RawRecord]:
    forward = _Forward(file)
    key = ""
    parts: list[bytes] = []
    for member in members(forward.read, _UNKNOWN_SIZE):
        if member.key != key and parts:
            yield RawRecord(b"".join(parts), f"{url}, {key.lstrip('/')}")
            parts = []
        key = member.key
        data = forward.read(member.data, member.data + member.size)
        if len(data) != member.size:
            raise DamagedTarError(f"it ends in the middle of {member.name}")
        parts.append(write_member(member.name, data))
    if parts:
        yield RawRecord(b"".join(parts), f"{url}, {key.lstrip('/')}")
    while rest := file.read(1 << 20):
        if rest.strip(b"\0"):
            raise DamagedTarError("it goes on after its end mark; were archives joined with cat?")


class _Forward:
    """Reads ranges of a stream, in rising order."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file, self._at = file, 0

    def read(self, start: int, end: int) -> bytes:
        while self._at < start and (skipped := self._file.read(min(start - self._at, 1 << 20))):
            self._at += len(skipped)
        data = self._file.read(end - start)
        self._at += len(data)
        return data


class Stream(io.RawIOBase):
    """A file of any store as a stream, read in large ranges."""

    def __init__(self, url: str, size: int, advance: Advance) -> None:
        self._blocks, self._size, self._at = BlockReader(url, size, advance), size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        target = memoryview(buffer).cast("B")
        count = min(len(target), self._size - self._at)
        target[:count] = self._blocks.read(self._at, self._at + count)
        self._at += count
        return count
