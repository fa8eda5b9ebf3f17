"""Functions on URLs and paths. `cclm.storage` exports them; its docstring says which errors all of them may raise."""

from __future__ import annotations

import errno
import os
import posixpath
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from cclm.storage import local
from cclm.storage.interface import Entry, FileInfo, chunks, is_temporary, split_url
from cclm.storage.observation import report_read, report_written
from cclm.storage.patience import IncompleteTransfer, MissingBucket, ShortReadError, retried
from cclm.storage.stores import open_store

_CHUNK = 8 << 20  # bytes of one request of a large read
_CHUNKS_AT_ONCE = 4
_READ_TRIES = 10  # for a file that others keep replacing


@dataclass(frozen=True)
class FileStat:
    """Size and version of a file. Two that are equal mean that the file has not changed."""

    size: int
    """Bytes."""
    tag: str | None
    """ETag, generation or time of change, whichever the store has. None where it has none of them."""


def is_local(url: str) -> bool:
    """True for paths and `file://` URLs."""
    return "://" not in url or url.startswith("file://")


def local_path(url: str) -> str:
    """The path of a local `url`."""
    return url.removeprefix("file://")


def join(url: str, *parts: str) -> str:
    """`url` followed by the names of `parts`, with one slash between them."""
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
        info = _find_if_there(url)
    except ValueError:  # a zero byte or half a surrogate pair, which JSON can write
        return False
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return False
        raise
    return info is not None and not info.is_folder


def is_folder(url: str) -> bool:
    """True for a folder that exists. Raises MissingBucket."""
    info = _find_if_there(url)
    return info is not None and info.is_folder


def size(url: str) -> int:
    """Bytes of a file. Raises FileNotFoundError."""
    return _find(url).size


def modified(url: str) -> float | None:
    """Unix time at which a file was changed last; None where its store does not tell. Raises FileNotFoundError."""
    return _find(url).modified


def fingerprint(url: str) -> FileStat:
    """Size and version of a file. Raises FileNotFoundError."""
    info = _find(url)
    return FileStat(info.size, info.tag)


def list_entries(url: str) -> list[Entry]:
    """What is in a folder at this moment, sorted by name, without files that are still being written.

    Object stores have no folders, so an absent one is empty there. Elsewhere it is a FileNotFoundError. Raises
    MissingBucket.
    """
    if is_local(url):
        entries = local.entries(local_path(url))
    else:
        store, path = open_store(url)
        entries = retried(url, lambda: store.entries(path))
    shown = (entry for entry in entries if entry.name and not is_temporary(entry.name))
    return sorted(shown, key=lambda entry: entry.name)


def list_files(url: str) -> list[str]:
    """Files of a folder (not of its subfolders), sorted by name, or `[url]` if it is a file.

    It skips what writers leave beside data: hidden files, `_SUCCESS` and other names that start with `_`, empty names.
    Raises FileNotFoundError.
    """
    if not _find(url).is_folder:
        return [url]
    names = [entry.name for entry in list_entries(url) if not entry.is_folder]
    return [join(url, file) for file in names if not file.startswith((".", "_"))]


def read_range(url: str, start: int, end: int) -> bytes:
    """Bytes [start, end) of a file. Raises FileNotFoundError, and ShortReadError where the file ends earlier."""
    if is_local(url):
        with open(local_path(url), "rb") as file:
            file.seek(start)
            data = file.read(end - start)
        if len(data) != end - start:
            raise _short_read(url, start, end, len(data))
        return data
    return read_ranges(url, [(start, end)])[0]


def read_ranges(url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Bytes [start, end) of each range, read at the same time where that helps. Raises the same as `read_range`."""
    if is_local(url):
        parts = local.read(local_path(url), ranges)
        _check_lengths(url, ranges, parts)
        return parts
    store, path = open_store(url)

    def attempt() -> list[bytes]:
        parts = store.read(path, ranges)
        if any(len(part) != end - start for part, (start, end) in zip(parts, ranges, strict=True)):
            if store.find(path).size < max(end for _, end in ranges):
                _check_lengths(url, ranges, parts)
            raise IncompleteTransfer(f"{url}: a transfer ended early")
        return parts

    parts = retried(url, attempt)
    report_read(url, sum(map(len, parts)))
    return parts


def read_bytes(url: str) -> bytes:
    """The whole file, all of it from one version. Raises FileNotFoundError, and ShortReadError if it keeps changing."""
    if is_local(url):
        with open(local_path(url), "rb") as file:
            return file.read()
    for _ in range(_READ_TRIES):  # size and bytes are separate requests; in between the file may be replaced
        before = _find_file(url)
        try:
            data = b"".join(read_ranges(url, list(chunks(before.size, _CHUNK))))
        except ShortReadError:
            continue
        if _find(url) == before:
            return data
    raise ShortReadError(f"{url} changes all the time; read it when its writer is done")


def write_atomic(url: str, data: bytes) -> None:
    """Write a file. Readers see the old one or the new one, whole. Folders are made as needed."""
    if is_local(url):
        local.write(local_path(url), data, new=False)
        return
    store, path = open_store(url)
    token = uuid.uuid4().hex
    retried(url, lambda: store.write(path, data, False, token))
    report_written(url, len(data))


def write_unless(url: str, data: bytes, is_outdated: Callable[[], bool]) -> bool:
    """Write a file as `write_atomic` does, unless it is outdated. An outage may last so long that it becomes so.

    Args:
        is_outdated: called before each try to write; may ask the same store.

    Returns:
        Whether the file is written.
    """
    if is_local(url):
        if is_outdated():
            return False
        local.write(local_path(url), data, new=False)
        return True
    store, path = open_store(url)
    token = uuid.uuid4().hex

    def attempt() -> bool:
        if is_outdated():
            return False
        store.write(path, data, False, token)
        return True

    is_written = retried(url, attempt, is_answer=bool)
    if is_written:
        report_written(url, len(data))
    return is_written


def write_new(url: str, data: bytes) -> None:
    """Write a file that must not exist yet. Of several writers one wins; the others get FileExistsError.

    Some S3-compatible stores ignore this condition, so that both of two writers win. A warning names such a store.
    """
    if is_local(url):
        local.write(local_path(url), data, new=True)
        return
    store, path = open_store(url)
    token = uuid.uuid4().hex
    retried(url, lambda: store.write(path, data, True, token))
    report_written(url, len(data))


def put_file(source: str, url: str) -> None:
    """Copy a local file to `url`, over what is there. Readers see all of it or nothing. Raises FileNotFoundError."""
    if is_local(url):
        local.copy(source, local_path(url))
        return
    size_of_source = os.stat(source).st_size
    store, path = open_store(url)
    token = uuid.uuid4().hex
    retried(url, lambda: store.upload(source, path, token))
    report_written(url, size_of_source)


def download(url: str, target: str) -> None:
    """Copy a file to a local path, whole or not at all. Raises FileNotFoundError, ShortReadError."""
    if is_local(url):
        local.copy(local_path(url), target)
        return
    before = _find_file(url)

    def fill(file: BinaryIO) -> None:
        batch = _CHUNK * _CHUNKS_AT_ONCE
        for first, last in chunks(before.size, batch):
            ranges = [(first + start, first + end) for start, end in chunks(last - first, _CHUNK)]
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
    if not local_path(url).strip("/") or (not is_local(url) and not split_url(url).path.strip("/")):
        raise ValueError(f"{url}: refusing to delete a whole store")
    if is_local(url):
        local.remove_folder(local_path(url))
        return
    store, path = open_store(url)
    retried(url, lambda: store.remove_folder(path))


def _find(url: str) -> FileInfo:
    if is_local(url):
        return local.find(local_path(url))
    store, path = open_store(url)
    return retried(url, lambda: store.find(path))


def _find_if_there(url: str) -> FileInfo | None:
    """None for what does not exist. Raises MissingBucket, since a missing bucket is usually a mistake in the URL."""
    try:
        return _find(url)
    except MissingBucket:
        raise
    except FileNotFoundError:
        return None


def _find_file(url: str) -> FileInfo:
    info = _find(url)
    if info.is_folder:
        raise IsADirectoryError(f"{url} is a folder")
    return info


def _check_lengths(url: str, ranges: Sequence[tuple[int, int]], parts: Sequence[bytes]) -> None:
    for (start, end), part in zip(ranges, parts, strict=True):
        if len(part) != end - start:
            raise _short_read(url, start, end, len(part))


def _short_read(url: str, start: int, end: int, got: int) -> ShortReadError:
    return ShortReadError(f"{url}: bytes {start}..{end} asked, {got} read; did the file change?")
