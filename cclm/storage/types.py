"""What every store can do, and what the kinds of store share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

_THREADS = 8


@dataclass(frozen=True)
class Found:
    """What a store knows of a path."""

    size: int
    tag: str | None
    """Changes with the content: ETag, generation or time of change."""
    is_folder: bool


@dataclass(frozen=True)
class Entry:
    """A file or folder in a folder."""

    name: str
    """Without the folder."""
    size: int
    """Bytes; 0 for folders."""
    is_folder: bool


class Store(Protocol):
    """What a store can do. Each call is one try; errors are the library's own, for `patience.judge`."""

    def find(self, path: str) -> Found:
        """Raises FileNotFoundError."""

    def entries(self, path: str) -> list[Entry]:
        """What is in a folder now. Where folders do not exist by themselves, an absent one is empty."""

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes [start, end) of each range; less where the file ends."""

    def write(self, path: str, data: bytes, new: bool, token: str) -> None:
        """Publish `data` whole. `new` refuses to replace: FileExistsError. `token` is that of all tries of a write."""

    def upload(self, local: str, path: str, token: str) -> None:
        """Publish a local file whole, replacing."""

    def remove(self, path: str) -> None:
        """Remove a file; absent is fine."""

    def remove_folder(self, path: str) -> None:
        """Remove a folder with all that is in it; absent is fine."""


def temporary_name(name: str, token: str) -> str:
    """How a file is called until it is published; `is_temporary` tells."""
    return f".{name}.{token}.tmp"


def is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def is_partial(name: str) -> bool:
    """Whether `hdfs dfs -put` and its like still write a file of this name, or left it when they were cut off."""
    return name.endswith("._COPYING_")


def split(url: str) -> tuple[str, str, str]:
    """Scheme, authority and path (without a leading slash). By hand: urlparse cuts at # and ? and lowers the case."""
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    return scheme.lower(), authority, path


def each(call: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """`call` of each item, some at a time; the first error ends it."""
    if len(items) <= 1:
        return [call(item) for item in items]
    with ThreadPoolExecutor(min(_THREADS, len(items))) as pool:
        return list(pool.map(call, items))


def pieces(size: int, length: int) -> Iterator[tuple[int, int]]:
    """[start, end) of pieces of `length` bytes, the last one shorter."""
    for start in range(0, size, length):
        yield start, min(start + length, size)
