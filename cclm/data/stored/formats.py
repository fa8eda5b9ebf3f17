"""The two formats of data files. The name of a file says which one it has."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from cclm.errors import UserError

COMPRESSED = (".gz", ".tgz", ".bz2", ".zst", ".xz", ".zip")


class Format(Enum):
    """The format of a data file."""

    LINES = "line-JSON"
    TAR = "tar"
    """A WebDataset shard: consecutive members with the same key (`<key>.jpg`, `<key>.json` ...) are one record."""


def format_of(url: str) -> Format:
    """The format that the name of a file says."""
    return Format.TAR if url.endswith(".tar") else Format.LINES


def one_format(where: str, files: Sequence[str]) -> Format:
    """The format of all `files`. `where` is the config key, for messages. Raises UserError if they have two."""
    first = format_of(files[0])
    other = next((file for file in files if format_of(file) is not first), None)
    if other is not None:
        raise UserError(
            f"{where}: {files[0]} is {first.value} and {other} is {format_of(other).value}; a source has one format. "
            "Name them apart, or bring them into one with: cclm data shard IN OUT"
        )
    return first


def looks_like(head: bytes) -> str | None:
    """The name of the binary format that the first bytes of a file show, or None. 262 bytes are enough."""
    for magic, name in ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz")):
        if head.startswith(magic):
            return name
    return "tar" if head[257:262] == b"ustar" else None
