"""Tar shards as WebDataset writes them: where their records are, and what a record holds.

The members of a record follow each other and have the same key: the path up to the first dot of the file's name. A
record is the bytes from the header of its first member to the next record. Long-name and PAX headers before a member
belong to it.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cclm.errors import UserError

_BLOCK = tarfile.BLOCKSIZE
_EMPTY = bytes(_BLOCK)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_WITH_DATA = (*_FILES, *_PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_PAX_RECORD = re.compile(rb"(\d+) ([^=]+)=")
_MAX_EXTENSION = 1 << 20  # bytes of a long-name or PAX header; a larger one is a sign of damage

Read = Callable[[int, int], bytes]
"""Returns the bytes [start, end)."""


class DamagedTarError(ValueError):
    """The data are not a tar archive, or one that was cut off or changed. The message says where."""


class DoubledMemberError(DamagedTarError):
    """Two members of a record have the same name.

    So they are of two neighbouring records with equal keys, of which only one would be seen.
    """


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive."""

    name: str
    start: int
    """First byte of its first header."""
    data: int
    """First byte of its content."""
    size: int
    """Bytes of its content."""

    @property
    def end(self) -> int:
        """Where the next header starts."""
        return self.data + _padded(self.size)

    @property
    def key(self) -> str:
        """The path up to the first dot of the file's name."""
        folder, _, file = self.name.rpartition("/")
        return f"{folder}/{file.partition('.')[0]}"

    @property
    def extension(self) -> str:
        """What comes after the first dot of the file's name, in lower case."""
        return self.name.rpartition("/")[2].partition(".")[2].lower()


def members(read: Read, size: int) -> Iterator[Member]:
    """The files of `size` bytes of an archive: of all, or of a range of whole members. Hidden files are passed over.

    Raises:
        DamagedTarError: a header is wrong, or the data end too early.
    """
    return (entry for entry in _entries(read, size) if isinstance(entry, Member))


def _entries(read: Read, size: int) -> Iterator[Member | int]:
    """As `members`. For what is passed over (links, folders, hidden files), the number of the byte after it."""
    at = start = 0
    name: str | None = None
    length: int | None = None
    while at + _BLOCK <= size:
        block = read(at, at + _BLOCK)
        if block == _EMPTY:
            return
        header = _plain_header(block) or _any_header(block, at)
        data, bytes_ = at + _BLOCK, header.size if length is None else length
        if bytes_ < 0:
            raise DamagedTarError(f"{header.name} has a size of {bytes_} bytes, at byte {at}")
        if header.type not in _WITH_DATA:  # links and folders have no data, whatever their size says
            bytes_ = 0
        at = data + _padded(bytes_)
        if data + bytes_ > size:
            raise DamagedTarError(f"it ends in the middle of {header.name}, at byte {size}")
        if header.type in _PAX or header.type == tarfile.GNUTYPE_LONGNAME:
            if bytes_ > _MAX_EXTENSION:
                raise DamagedTarError(f"a header of {bytes_} bytes at byte {data}")
            name, length = _extension(header.type, read(data, data + bytes_), name, length)
            continue
        if header.type in _FILES:
            member = Member(header.name if name is None else name, start, data, bytes_)
            yield at if member.name.rpartition("/")[2].startswith(".") else member
        else:
            yield at
        start, name, length = at, None, None


@dataclass(frozen=True, slots=True)
class _Header:
    """The parts of a header that are used."""

    name: str
    type: bytes
    size: int


def _plain_header(block: bytes) -> _Header | None:
    """The header of a file with a short name, which nearly all have; None for any other header.

    It takes a fifth of the time of tarfile. Owner, time and mode are not used, so only the checksum covers them.
    """
    if block[156:157] != tarfile.REGTYPE or block[257:262] != b"ustar" or block[345]:
        return None
    try:
        size, checksum = (int(field.rstrip(b" \0"), 8) for field in (block[124:136], block[148:156]))
    except ValueError:
        return None
    if checksum != sum(block, 8 * ord(" ")) - sum(block[148:156]):  # the field of the checksum counts as spaces
        return None
    return _Header(block[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape"), tarfile.REGTYPE, size)


def _any_header(block: bytes, at: int) -> _Header:
    """A header of any kind, which is at byte `at`. Raises DamagedTarError."""
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise DamagedTarError(f"no tar header at byte {at} ({error})") from None
    return _Header(info.name, info.type, info.size)


def record_starts(read: Read, size: int) -> list[int]:
    """The first byte of each record of a whole archive, then the end of the last record.

    Raises:
        DamagedTarError: as `members`; also if the end mark is missing, or data follow it.
        DoubledMemberError: neighbouring records have the same key.
    """
    starts, key, last, end = [], None, 0, 0
    extensions: set[str] = set()
    for entry in _entries(read, size):
        if isinstance(entry, int):
            end = entry
            continue
        if entry.key != key:
            starts.append(entry.start)
            extensions = set()
        elif entry.extension in extensions:
            raise _doubled(entry)
        extensions.add(entry.extension)
        key, last = entry.key, entry.end
        end = last
    if size and end + _BLOCK > size:
        raise DamagedTarError(f"it has no end mark after byte {end}, so it was cut off")
    if read(end, min(size, end + (1 << 20))).strip(b"\0"):
        raise DamagedTarError(f"it goes on after its end mark at byte {end}; were archives joined with cat?")
    return [*starts, last]


def members_of_record(data: bytes | memoryview) -> dict[str, bytes]:
    """Extension -> content, for the files of a record. Raises DamagedTarError, DoubledMemberError."""
    found: dict[str, bytes] = {}
    for member in members(_slice(data), len(data)):
        if member.extension in found:
            raise _doubled(member)
        found[member.extension] = bytes(data[member.data : member.data + member.size])
    return found


def key_of_record(data: bytes) -> str:
    """The key of the members of a record; "" if it has no members. Raises DamagedTarError."""
    return next((member.key.lstrip("/") for member in members(_slice(data), len(data))), "")


def write_member(name: str, data: bytes) -> bytes:
    """A file as it is in an archive: header, content, padding. Equal input gives equal bytes: no time, no owner."""
    header = tarfile.TarInfo(name)
    header.size, header.mode = len(data), 0o644
    return header.tobuf(tarfile.PAX_FORMAT, "utf-8") + data + bytes(_padded(len(data)) - len(data))


END_MARK = bytes(2 * _BLOCK)
"""The bytes at the end of an archive."""


def refuse_damaged(where: str, url: str, error: DamagedTarError) -> UserError:
    """The error for users. `where` is the config key or the command."""
    if isinstance(error, DoubledMemberError):
        return UserError(
            f"{where}: {url}: {error}; give each record a key of its own, or leave such records out with: "
            "cclm data shard IN OUT --skip-broken"
        )
    return UserError(f"{where}: {url} is not a whole tar file: {error}; write or copy it again")


def _doubled(second: Member) -> DoubledMemberError:
    return DoubledMemberError(f"two neighbouring records have the key of {second.name} (again at byte {second.start})")


def _slice(data: bytes | memoryview) -> Read:
    return lambda start, end: bytes(data[start:end])


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _extension(kind: bytes, data: bytes, name: str | None, length: int | None) -> tuple[str | None, int | None]:
    """The name and the size of the next member after this header; those of earlier headers where it has none.

    `kind` and `data` are the type and the content of a long-name or PAX header.
    """
    if kind == tarfile.GNUTYPE_LONGNAME:
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape"), length
    at = 0
    while (found := _PAX_RECORD.match(data, at)) is not None and int(found[1]) > 0:
        value = data[found.end() : at + int(found[1]) - 1]
        if found[2] == b"path":
            name = value.decode("utf-8", "surrogateescape")
        elif found[2] == b"size" and value.isdigit():
            length = int(value)
        at += int(found[1])
    return name, length
