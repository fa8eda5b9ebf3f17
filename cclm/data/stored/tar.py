"""Tar shards as WebDataset writes them: where their records lie, and what is in one.

The members of a record follow each other and share a key: the path up to the first dot of the file's name. A record is
the bytes from the header of its first member (with the long-name or PAX headers before it) to the next record.
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
_LARGEST_EXTENSION = 1 << 20  # bytes of a long-name or PAX header; more is damage

Read = Callable[[int, int], bytes]
"""Bytes [start, end)."""


class DamagedTarError(ValueError):
    """Not a tar archive, or one that was cut off or changed; the message says where."""


class DoubledMemberError(DamagedTarError):
    """Two members of a record have one name: two records whose keys are equal, of which only one would be seen."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive."""

    name: str
    start: int
    """Its first header."""
    data: int
    """Its first byte."""
    size: int
    """Bytes."""

    @property
    def end(self) -> int:
        """Where the next header starts."""
        return self.data + _padded(self.size)

    @property
    def key(self) -> str:
        folder, _, file = self.name.rpartition("/")
        return f"{folder}/{file.partition('.')[0]}"

    @property
    def extension(self) -> str:
        """What follows the first dot of the file's name, lower case."""
        return self.name.rpartition("/")[2].partition(".")[2].lower()


def members(read: Read, size: int) -> Iterator[Member]:
    """The files of an archive, or of a range of whole members, of `size` bytes; hidden ones are passed over.

    Raises:
        DamagedTarError: a header is not one, or data end too early.
    """
    return (entry for entry in _entries(read, size) if isinstance(entry, Member))


def _entries(read: Read, size: int) -> Iterator[Member | int]:
    """As `members`; what is passed over (links, folders, hidden files) is told by the byte after it."""
    at = start = 0
    name: str | None = None
    length: int | None = None
    while at + _BLOCK <= size:
        block = read(at, at + _BLOCK)
        if block == _EMPTY:
            return
        header = _plain_header(block)
        if header is None:
            try:
                header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise DamagedTarError(f"no tar header at byte {at} ({error})") from None
        data, bytes_ = at + _BLOCK, header.size if length is None else length
        if bytes_ < 0:
            raise DamagedTarError(f"{header.name} has a size of {bytes_} bytes, at byte {at}")
        if header.type not in _WITH_DATA:  # links, folders: without data whatever their size says
            bytes_ = 0
        at = data + _padded(bytes_)
        if data + bytes_ > size:
            raise DamagedTarError(f"it ends in the middle of {header.name}, at byte {size}")
        if header.type in _PAX or header.type == tarfile.GNUTYPE_LONGNAME:
            if bytes_ > _LARGEST_EXTENSION:
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
    """What is used of a header; of tarfile.TarInfo as well."""

    name: str
    type: bytes
    size: int


def _plain_header(block: bytes) -> _Header | None:
    """The header of a file with a short name, as nearly all are, in a fifth of tarfile's time; None for any other.

    Owner, time and mode, which nobody asks for here, may be anything that the checksum agrees with.
    """
    if block[156:157] != tarfile.REGTYPE or block[257:262] != b"ustar" or block[345]:
        return None
    try:
        size, checksum = (int(field.rstrip(b" \0"), 8) for field in (block[124:136], block[148:156]))
    except ValueError:
        return None
    if checksum != sum(block, 8 * ord(" ")) - sum(block[148:156]):  # its own place counts as spaces
        return None
    return _Header(block[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape"), tarfile.REGTYPE, size)


def record_starts(read: Read, size: int) -> list[int]:
    """The first byte of each record of a whole archive, then the end of the last one.

    Raises:
        DamagedTarError: as `members`; also if the end mark is missing, or something follows it.
        DoubledMemberError: neighbouring records share a key.
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
    """Extension -> contents of the files of a record. Raises DamagedTarError, DoubledMemberError."""
    found: dict[str, bytes] = {}
    for member in members(_slice(data), len(data)):
        if member.extension in found:
            raise _doubled(member)
        found[member.extension] = bytes(data[member.data : member.data + member.size])
    return found


def key_of_record(data: bytes) -> str:
    """The key that the members of a record share, "" if there is none. Raises DamagedTarError."""
    return next((member.key.lstrip("/") for member in members(_slice(data), len(data))), "")


def write_member(name: str, data: bytes) -> bytes:
    """A file as it stands in an archive: header, contents, padding. No time and no owner: equal input, equal bytes."""
    header = tarfile.TarInfo(name)
    header.size, header.mode = len(data), 0o644
    return header.tobuf(tarfile.PAX_FORMAT, "utf-8") + data + bytes(_padded(len(data)) - len(data))


END_MARK = bytes(2 * _BLOCK)
"""What closes an archive."""


def refuse_damaged(where: str, url: str, error: DamagedTarError) -> UserError:
    """The sentence for the user."""
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
    """The name and the size for the next member that a long-name or PAX header gives."""
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
