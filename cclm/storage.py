"""A URL or path becomes bytes: the only place that knows about stores (fsspec).

File systems are opened lazily and per process (fsspec keys its instances by process and thread), so modules that call
this work in DataLoader workers however they were started.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import fsspec


class ShortReadError(OSError):
    """A store returned fewer bytes than the range holds: the file shrank, or the transfer broke."""


def _open_store(url: str) -> tuple[Any, str]:
    """The file system of `url` and the path inside it."""
    return fsspec.core.url_to_fs(url)


def is_local(url: str) -> bool:
    """True for paths and `file://` URLs."""
    return "://" not in url or url.startswith("file://")


def local_path(url: str) -> str:
    """The path of a local `url`."""
    return url.removeprefix("file://")


def exists(url: str) -> bool:
    store, path = _open_store(url)
    return bool(store.exists(path))


def size(url: str) -> int:
    """Bytes of a file. Raises FileNotFoundError."""
    store, path = _open_store(url)
    return int(store.size(path))


def modified_ns(url: str) -> int | None:
    """Time of the last change of a local file, ns since 1970; None where stores do not tell reliably."""
    return os.stat(local_path(url)).st_mtime_ns if is_local(url) else None


def list_files(url: str) -> list[str]:
    """Files of a folder (not of its subfolders), sorted by name, or `[url]` if it is a file.

    Skips what writers leave beside data: hidden files, `_SUCCESS` and other names that start with `_`, empty names.
    Raises FileNotFoundError.
    """
    store, path = _open_store(url)
    if store.isfile(path):
        return [url]
    if not store.exists(path):
        raise FileNotFoundError(url)
    store.invalidate_cache(path)  # a listing from before new files were put there would hide them
    entries = [entry for entry in store.ls(path, detail=True) if entry["type"] == "file"]
    names = sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries)
    return [f"{url.rstrip('/')}/{name}" for name in names if name and not name.startswith((".", "_"))]


def read_range(url: str, start: int, end: int) -> bytes:
    """Bytes [start, end) of a file; all of them, or ShortReadError."""
    if is_local(url):  # fsspec's local file system costs 10 times the read of one record
        with open(local_path(url), "rb") as file:
            file.seek(start)
            data = file.read(end - start)
    else:
        store, path = _open_store(url)
        data = bytes(store.cat_file(path, start=start, end=end))
    if len(data) != end - start:
        raise ShortReadError(f"{url}: bytes {start}..{end} asked, {len(data)} read; did the file change?")
    return data


def read_bytes(url: str) -> bytes:
    """The whole file. Raises FileNotFoundError."""
    store, path = _open_store(url)
    return bytes(store.cat_file(path))


def write_atomic(url: str, data: bytes) -> None:
    """Write a local file so that a reader sees the old one or the new one, never a part."""
    if not is_local(url):
        raise NotImplementedError(f"{url}: only local files are written so far")
    path = local_path(url)
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{os.path.basename(path)}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    """The process's file mode mask; there is no way to read it without setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
