"""The interface of a store, and what the implementations share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

_THREADS = 8

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class FileInfo:
    """What a store knows of a path."""

    size: int
    """Bytes."""
    tag: str | None
    """ETag, generation or time of change: it changes with the content. None where the store has none of them."""
    is_folder: bool
    modified: float | None = field(default=None, compare=False)
    """Unix time of the last change; None where the store does not tell."""


@dataclass(frozen=True)
class Entry:
    """A file or folder in a folder."""

    name: str
    """Name without the folder."""
    size: int
    """Bytes; 0 for folders."""
    is_folder: bool


class Store(Protocol):
    """What a store can do. A range is [start, end), in bytes.

    Each call is one try. It raises the errors of the store's library, which `patience.classify` understands.
    """

    def find(self, path: str) -> FileInfo:
        """Look at a file or folder. Raises FileNotFoundError."""

    def entries(self, path: str) -> list[Entry]:
        """What is in a folder now. Where folders do not exist by themselves, an absent one is empty."""

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each range; fewer where the file ends."""

    def write(self, path: str, data: bytes, new: bool, token: str) -> None:
        """Publish `data` whole.

        Args:
            new: refuse to replace a file that exists: FileExistsError.
            token: identifies the write. All tries of one write have the same token.
        """

    def upload(self, local: str, path: str, token: str) -> None:
        """Publish a local file whole. It replaces a file that exists."""

    def remove(self, path: str) -> None:
        """Remove a file; an absent one is fine."""

    def remove_folder(self, path: str) -> None:
        """Remove a folder with all that is in it; an absent one is fine."""


def temporary_name(name: str, token: str) -> str:
    """The name of a file until it is published; `is_temporary` recognises it."""
    return f".{name}.{token}.tmp"


def is_temporary(name: str) -> bool:
    """Whether a file of this name is not published yet."""
    return name.startswith(".") and name.endswith(".tmp")


def is_partial(name: str) -> bool:
    """Whether `hdfs dfs -put` or a similar tool is still writing a file of this name, or was cut off and left it."""
    return name.endswith("._COPYING_")


class UrlParts(NamedTuple):
    """A URL `scheme://authority/path`."""

    scheme: str
    """In lower case."""
    authority: str
    """Host and port, or bucket."""
    path: str
    """Without the leading slash."""


def split_url(url: str) -> UrlParts:
    """The parts of a URL. `urlparse` would cut at `#` and `?`, which file names may hold, and change the case."""
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    return UrlParts(scheme.lower(), authority, path)


def map_threaded(call: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`call` of each item, in several threads; the first error is raised."""
    if len(items) <= 1:
        return [call(item) for item in items]
    with ThreadPoolExecutor(min(_THREADS, len(items))) as pool:
        return list(pool.map(call, items))


def chunks(size: int, length: int) -> Iterator[tuple[int, int]]:
    """[start, end) of consecutive chunks of `length` bytes that make up `size` bytes; the last one may be shorter."""
    for start in range(0, size, length):
        yield start, min(start + length, size)
