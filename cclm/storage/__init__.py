"""A URL or path becomes bytes: the only place that knows about stores.

Paths, `hdfs://` (hdfs-native), `s3://` (s3fs), `gs://` (gcsfs), and what else fsspec opens. Options come from the
libraries' own environment (`FSSPEC_S3_ENDPOINT_URL`, `HADOOP_CONF_DIR`, ...). Stores are opened lazily and per process,
so modules that call this work in DataLoader workers however they were started.

Every function may raise AccessDenied (a UserError), StoreUnavailable (an outage outlasted `patience()`) and, for other
refusals, OSError: one sentence each. What is written becomes visible whole or not at all.

- `patience`: errors and retries
- `stores`: which store a URL means
- `hdfs`, `objects`: the stores and their traps
- `local`: files of this machine
"""

from __future__ import annotations

import errno
import os
import posixpath
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from cclm.storage import local
from cclm.storage.patience import (
    PATIENCE,
    AccessDenied,
    Incomplete,
    MissingBucket,
    ShortReadError,
    StoreUnavailable,
    patience,
    retried,
    set_patience,
)
from cclm.storage.stores import open_store, reopen
from cclm.storage.types import Entry, Found, is_partial, is_temporary, pieces, split

__all__ = [
    "PATIENCE", "AccessDenied", "Entry", "FileStat", "MissingBucket", "ShortReadError", "StoreUnavailable", "delete",
    "delete_folder", "download", "exists", "fingerprint", "is_file", "is_folder", "is_local", "is_partial", "join",
    "list_entries", "list_files", "local_path", "name", "parent", "patience", "put_file", "read_bytes", "read_range",
    "read_ranges", "reopen", "set_patience", "size", "write_atomic", "write_new",
]  # fmt: skip

_PIECE = 8 << 20  # bytes of one request of a large read
_PIECES_AT_ONCE = 4
_TRIES = 10  # of reading a small file that others keep replacing


@dataclass(frozen=True)
class FileStat:
    """What tells whether a file is still the one that it was."""

    size: int
    """Bytes."""
    tag: str | None
    """ETag, generation or time of change, as the store has it; None where there is nothing."""


def is_local(url: str) -> bool:
    """True for paths and `file://` URLs."""
    return "://" not in url or url.startswith("file://")


def local_path(url: str) -> str:
    """The path of a local `url`."""
    return url.removeprefix("file://")


def join(url: str, *parts: str) -> str:
    """`url` and names below it, with one slash between each."""
    return "/".join([url.rstrip("/") if url.strip("/") else url[:-1], *(part.strip("/") for part in parts)])


def name(url: str) -> str:
    """The last part of a URL or path."""
    return posixpath.basename(url.rstrip("/"))


def parent(url: str) -> str:
    """The folder that holds `url`; "" for a bare name."""
    return posixpath.dirname(url.rstrip("/"))


def exists(url: str) -> bool:
    """True for a file or a folder (on object stores: for anything below it). Raises MissingBucket."""
    return _find_if_there(url) is not None


def is_file(url: str) -> bool:
    """True for a file that exists; False for a name that no file can have. Raises MissingBucket."""
    try:
        found = _find_if_there(url)
    except ValueError:  # a zero byte or half a surrogate pair, which JSON can write
        return False
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return False
        raise
    return found is not None and not found.is_folder


def is_folder(url: str) -> bool:
    """True for a folder that exists. Raises MissingBucket."""
    found = _find_if_there(url)
    return found is not None and found.is_folder


def size(url: str) -> int:
    """Bytes of a file. Raises FileNotFoundError."""
    return _find(url).size


def fingerprint(url: str) -> FileStat:
    """Size and version of a file. Raises FileNotFoundError."""
    found = _find(url)
    return FileStat(found.size, found.tag)


def list_entries(url: str) -> list[Entry]:
    """What is in a folder at this moment, sorted by name, without files that are still being written.

    An absent folder is empty on object stores, which have none, and FileNotFoundError elsewhere. Raises MissingBucket.
    """
    if is_local(url):
        found = local.entries(local_path(url))
    else:
        store, path = open_store(url)
        found = retried(url, lambda: store.entries(path))
    return sorted((entry for entry in found if entry.name and not is_temporary(entry.name)), key=lambda e: e.name)


def list_files(url: str) -> list[str]:
    """Files of a folder (not of its subfolders), sorted by name, or `[url]` if it is a file.

    Skips what writers leave beside data: hidden files, `_SUCCESS` and other names that start with `_`, empty names.
    Raises FileNotFoundError.
    """
    if not _find(url).is_folder:
        return [url]
    found = [entry.name for entry in list_entries(url) if not entry.is_folder]
    return [join(url, file) for file in found if not file.startswith((".", "_"))]


def read_range(url: str, start: int, end: int) -> bytes:
    """Bytes [start, end) of a file; all of them, or ShortReadError. Raises FileNotFoundError."""
    if is_local(url):
        with open(local_path(url), "rb") as file:
            file.seek(start)
            data = file.read(end - start)
        if len(data) != end - start:
            raise _short(url, start, end, len(data))
        return data
    return read_ranges(url, [(start, end)])[0]


def read_ranges(url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Bytes [start, end) of each range, read at the same time where that helps; as `read_range`."""
    if is_local(url):
        parts = local.read(local_path(url), ranges)
        _check(url, ranges, parts)
        return parts
    store, path = open_store(url)

    def attempt() -> list[bytes]:
        parts = store.read(path, ranges)
        if any(len(part) != end - start for part, (start, end) in zip(parts, ranges, strict=True)):
            if store.find(path).size < max(end for _, end in ranges):
                _check(url, ranges, parts)
            raise Incomplete(f"{url}: a transfer ended early")
        return parts

    return retried(url, attempt)


def read_bytes(url: str) -> bytes:
    """The whole file, in one state of it. Raises FileNotFoundError, and ShortReadError if it never stands still."""
    if is_local(url):
        with open(local_path(url), "rb") as file:
            return file.read()
    for _ in range(_TRIES):  # its size and its bytes are two questions: between them it may be replaced
        before = _file(url)
        try:
            data = b"".join(read_ranges(url, list(pieces(before.size, _PIECE))))
        except ShortReadError:
            continue
        if _find(url) == before:
            return data
    raise ShortReadError(f"{url} changes all the time; read it when its writer is done")


def write_atomic(url: str, data: bytes) -> None:
    """Write a file so that readers see the old one or the new one, whole. Makes folders as needed."""
    if is_local(url):
        local.write(local_path(url), data, new=False)
        return
    store, path = open_store(url)
    token = uuid.uuid4().hex
    retried(url, lambda: store.write(path, data, False, token))


def write_new(url: str, data: bytes) -> None:
    """Write a file that must not exist; of several writers one wins. Raises FileExistsError.

    S3-compatible stores that ignore the condition are warned about: there a race of two writers has no loser.
    """
    if is_local(url):
        local.write(local_path(url), data, new=True)
        return
    store, path = open_store(url)
    token = uuid.uuid4().hex
    retried(url, lambda: store.write(path, data, True, token))


def put_file(source: str, url: str) -> None:
    """Copy a local file to `url`, replacing; readers see all of it or nothing. Raises FileNotFoundError."""
    if is_local(url):
        local.copy(source, local_path(url))
        return
    os.stat(source)
    store, path = open_store(url)
    token = uuid.uuid4().hex
    retried(url, lambda: store.upload(source, path, token))


def download(url: str, target: str) -> None:
    """Copy a file to a local path, whole or not at all. Raises FileNotFoundError, ShortReadError."""
    if is_local(url):
        local.copy(local_path(url), target)
        return
    before = _file(url)

    def fill(file: BinaryIO) -> None:
        batch = _PIECE * _PIECES_AT_ONCE
        for first, last in pieces(before.size, batch):
            ranges = [(first + start, first + end) for start, end in pieces(last - first, _PIECE)]
            file.writelines(read_ranges(url, ranges))
        if fingerprint(url) != FileStat(before.size, before.tag):
            raise ShortReadError(f"{url} changed while it was downloaded; try again")

    local.publish(target, fill, new=False)


def delete(url: str) -> None:
    """Remove a file; an absent one is fine."""
    if is_local(url):
        local.remove(local_path(url))
        return
    store, path = open_store(url)
    retried(url, lambda: store.remove(path))


def delete_folder(url: str) -> None:
    """Remove a folder with all that is in it; an absent one is fine."""
    if not local_path(url).strip("/") or (not is_local(url) and not split(url)[2].strip("/")):
        raise ValueError(f"{url}: refusing to delete a whole store")
    if is_local(url):
        local.remove_folder(local_path(url))
        return
    store, path = open_store(url)
    retried(url, lambda: store.remove_folder(path))


def _find(url: str) -> Found:
    if is_local(url):
        return local.find(local_path(url))
    store, path = open_store(url)
    return retried(url, lambda: store.find(path))


def _find_if_there(url: str) -> Found | None:
    """None for what does not exist; a missing bucket is an error."""
    try:
        return _find(url)
    except MissingBucket:
        raise
    except FileNotFoundError:
        return None


def _file(url: str) -> Found:
    found = _find(url)
    if found.is_folder:
        raise IsADirectoryError(f"{url} is a folder")
    return found


def _check(url: str, ranges: Sequence[tuple[int, int]], parts: Sequence[bytes]) -> None:
    for (start, end), part in zip(ranges, parts, strict=True):
        if len(part) != end - start:
            raise _short(url, start, end, len(part))


def _short(url: str, start: int, end: int, got: int) -> ShortReadError:
    return ShortReadError(f"{url}: bytes {start}..{end} asked, {got} read; did the file change?")
