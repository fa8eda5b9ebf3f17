"""The index of a data file: where each record starts. It is kept in sidecar files, beside the data or in a folder.

`<file>.idx` holds n + 1 little-endian uint64: the start of each of the n records, then the end of the last one. NVIDIA
Energon writes the same bytes. Record i is the bytes [offset[i], offset[i + 1]). In line-JSON they include the line
break and any blank lines that follow. A blank line is not a record; a last line without a line break is one.

`<file>.idx.json` holds the size and version of the file that the index describes. If the file has changed since, the
index is never used. A local file is then indexed again, and the change is logged. A local file that became shorter is
refused, since its copy may have been cut off. A changed file in a store is refused too, since otherwise every process
of every run would read the whole file first.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
import tempfile
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from cclm import storage
from cclm.data.stored.files import data_files
from cclm.data.stored.formats import Format, format_of
from cclm.data.stored.scan import Advance, Offsets, build_offsets
from cclm.errors import UserError

log = logging.getLogger(__name__)

_THREADS = 16  # files opened or scanned at the same time: each request to a store takes tens of milliseconds
_MAX_COUNTED = 64 << 20  # bytes that are read to find the number of a line


@dataclass(frozen=True)
class IndexInfo:
    """The content of `<file>.idx.json`: the state of the file that the offsets describe."""

    records: int
    size: int
    """Bytes of the data file."""
    tag: str | None
    """Version of the data file, as the store gives it (ETag, generation, time of change)."""
    crc32: int
    """Checksum of the `.idx` file, so that sidecars of different writers are not taken for a pair."""

    def describes(self, stat: storage.FileStat) -> bool:
        """Whether the file is still in the state that was indexed."""
        return self.size == stat.size and (self.tag == stat.tag or None in (self.tag, stat.tag))

    def change(self, url: str, records: int, size: int) -> str | None:
        """How a file changed that now has so many records and bytes; None if the numbers are equal, as in a copy."""
        if (records, size) == (self.records, self.size):
            return None
        were = f"{self.records:,} records in {self.size:,} bytes were"
        return f"{url} changed after it was indexed: {were}, {records:,} in {size:,} are"


@dataclass
class FileIndex:
    """The offsets of one file. Where they are in a local file, only its name is pickled for loader processes."""

    url: str
    num_records: int
    num_bytes: int
    sidecar: str | None
    """Local file of the offsets; None if `in_memory` holds them."""
    in_memory: Offsets | None = None
    """(n + 1,) uint64."""

    @property
    def format(self) -> Format:
        """The format of the data file."""
        return format_of(self.url)

    def byte_range(self, first: int, last: int) -> tuple[int, int]:
        """Bytes [start, end) of the records [first, last)."""
        offsets = self.offsets(first, last)
        return offsets[0], offsets[-1]

    def offsets(self, first: int, last: int) -> list[int]:
        """Starts of the records [first, last), then the end of the last one."""
        if self.in_memory is not None:
            offsets = self.in_memory[first : last + 1]
        else:
            assert self.sidecar is not None
            # Read, not mapped: a map keeps its file open, and data sets have more files than a process may open.
            offsets = np.frombuffer(storage.read_range(self.sidecar, first * 8, (last + 1) * 8), dtype="<u8")
        result: list[int] = offsets.tolist()
        return result

    def line_number(self, record: int) -> int | None:
        """The line of a record, from 1, for messages. None in a store, in a tar, and far from the start of a file.

        Reads the file up to the record.
        """
        start = self.byte_range(record, record)[0]
        if start > _MAX_COUNTED or not storage.is_local(self.url) or self.format is Format.TAR:
            return None
        return storage.read_range(self.url, 0, start).count(b"\n") + 1


class UnusableIndexError(Exception):
    """A file has no usable index and may not be indexed on the fly.

    The message says what is wrong; `remedy` introduces the `cclm data index` command that mends it.
    """

    def __init__(self, message: str, remedy: str = "index it with") -> None:
        super().__init__(message)
        self.remedy = remedy


def open_indexes(where: str, urls: Sequence[str], index_dir: str | None = None) -> list[FileIndex]:
    """The index of every file of `urls` that holds records. A missing or stale index of a local file is built.

    Args:
        where: the config key, for messages.

    Raises:
        UserError: there is no record at all, a file in a store has no fresh index, or a file became shorter after it
            was indexed.
    """
    files = data_files(where, urls)
    with ThreadPoolExecutor(_THREADS) as pool:
        results = list(pool.map(lambda file: _open_or_error(where, file, index_dir), files))
    refused = [result for result in results if isinstance(result, UnusableIndexError)]
    if refused:
        others = f" ({len(refused)} of {len(files)} files)" if len(files) > 1 else ""
        raise UserError(f"{where}: {refused[0]}{others}; {refused[0].remedy}: {index_command(urls, index_dir)}")
    indexes = [result for result in results if isinstance(result, FileIndex)]
    filled = [index for index in indexes if index.num_records > 0]
    for index in indexes:
        if index.num_records == 0:
            log.warning("%s: %s holds no record", where, index.url)
    if not filled:
        raise UserError(f"{where}: no records in {', '.join(urls)}; the files there are empty")
    return filled


@dataclass(frozen=True)
class IndexSummary:
    """What `index_files` did and found."""

    records: int
    size: int
    """Bytes of all files."""
    fresh: int
    """Number of files whose index was up to date."""
    empty: list[str]
    """Files without a record."""
    changed: list[str]
    """A sentence for each file that had an index of another state."""


class _IndexedFile(NamedTuple):
    records: int
    size: int
    """Bytes."""
    was_fresh: bool


class Bar(Protocol):
    """A progress bar (tqdm)."""

    total: float | None

    def update(self, n: int) -> object: ...


def index_files(where: str, files: Sequence[str], index_dir: str | None, *, force: bool, bar: Bar) -> IndexSummary:
    """Write the sidecars of `files` that have none or stale ones (with `force`: of all), several files at a time.

    Raises:
        UserError: a file is not in the format that its name says, or the folder cannot be written. Files that were
            done before keep their new index.
    """
    lock = threading.Lock()
    if index_dir is not None and storage.is_local(index_dir):
        with _as_user_error(where, index_dir):
            os.makedirs(storage.local_path(index_dir), exist_ok=True)

    def advance(count: int) -> None:
        with lock:
            bar.update(count)

    changed: list[str] = []

    def index_one(file: str) -> _IndexedFile:
        stat = storage.fingerprint(file)
        found = None if force else known_index(file, stat, index_dir)
        if isinstance(found, FileIndex):
            return _IndexedFile(found.num_records, stat.size, was_fresh=True)
        with lock:
            bar.total = (bar.total or 0) + stat.size
        offsets = build_offsets(where, file, stat.size, advance, strict=True)
        if storage.fingerprint(file) != stat:
            raise UserError(f"{where}: {file} changed while it was indexed; try again when it is written")
        with _as_user_error(where, sidecar_of(file, index_dir)):
            write_sidecars(file, stat, offsets, index_dir)
        if found is not None and (change := found.change(file, len(offsets) - 1, stat.size)):
            changed.append(change)
        return _IndexedFile(len(offsets) - 1, stat.size, was_fresh=False)

    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(index_one, file) for file in files]
        try:
            done = [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return IndexSummary(
        records=sum(each.records for each in done),
        size=sum(each.size for each in done),
        fresh=sum(each.was_fresh for each in done),
        empty=[file for file, each in zip(files, done, strict=True) if each.records == 0],
        changed=changed,
    )


@contextmanager
def _as_user_error(where: str, place: str) -> Iterator[None]:
    """Turn an error of a disk or a store while writing `place` into a UserError."""
    try:
        yield
    except (UserError, storage.StoreUnavailable):
        raise
    except OSError as error:
        raise UserError(
            f"{where}: {place} cannot be written ({error.strerror or error}); "
            "choose a folder for the index with --index-dir"
        ) from error


def index_command(urls: Iterable[str], index_dir: str | None) -> str:
    """The command line that makes or renews the indexes of `urls`."""
    return shlex.join(["cclm", "data", "index", *urls, *(["--index-dir", index_dir] if index_dir else [])])


def open_index(where: str, url: str, index_dir: str | None = None) -> FileIndex:
    """The index of one file: read from its sidecars if they are fresh, otherwise built and, if possible, written.

    Raises:
        UnusableIndexError: the index is missing or stale, and the file is in a store or became shorter.
        UserError: the file is not in the format that its name says.
    """
    stat = storage.fingerprint(url)
    known = known_index(url, stat, index_dir)
    if isinstance(known, FileIndex):
        return known
    if known is not None and stat.size < known.size:
        raise UnusableIndexError(
            f"{url} became shorter after it was indexed, from {known.size:,} bytes with {known.records:,} records to "
            f"{stat.size:,} bytes",
            "copy it again or, if it is whole, index it with",
        )
    if not storage.is_local(url):
        was_indexed = known is not None or storage.exists(sidecar_of(url, index_dir) + ".json")
        raise UnusableIndexError(f"{url} changed after it was indexed" if was_indexed else f"{url} has no index")
    index = build_index(where, url, stat, index_dir)
    if known is not None and (change := known.change(url, index.num_records, stat.size)):
        log.warning("%s: %s", where, change)
    return index


def known_index(url: str, stat: storage.FileStat, index_dir: str | None) -> FileIndex | IndexInfo | None:
    """The index in the sidecars of a file, or their IndexInfo if it describes another state of the file.

    None if there are no sidecars, or damaged ones.
    """
    sidecar = sidecar_of(url, index_dir)
    try:
        info = IndexInfo(**json.loads(storage.read_bytes(sidecar + ".json")))
        if not info.describes(stat):
            return info
        place, offsets = _local_offsets(sidecar, info)
    except UserError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError) as error:
        log.warning("the index %s is damaged (%s)", sidecar, error)
        return None
    return FileIndex(url, info.records, stat.size, place, None if place else offsets)


def build_index(
    where: str, url: str, stat: storage.FileStat, index_dir: str | None, advance: Advance = lambda _: None
) -> FileIndex:
    """Scan a file and write its sidecars. If they cannot be written, the offsets stay in memory.

    Raises:
        UserError: the file is not in the format that its name says.
    """
    offsets = build_offsets(where, url, stat.size, advance)
    try:
        place = write_sidecars(url, stat, offsets, index_dir)
    except OSError as error:  # a read-only folder
        log.info("the index of %s stays in memory (%s); set data.index_dir to keep it", url, error)
        place = None
    return FileIndex(url, len(offsets) - 1, stat.size, place, None if place else offsets)


def write_sidecars(url: str, stat: storage.FileStat, offsets: Offsets, index_dir: str | None) -> str | None:
    """Write the offsets, then the IndexInfo. Returns the local path of the offsets, None if they are in a store.

    Raises:
        OSError: the folder cannot be written.
    """
    sidecar, raw = sidecar_of(url, index_dir), offsets.astype("<u8").tobytes()
    info = IndexInfo(len(offsets) - 1, stat.size, stat.tag, zlib.crc32(raw))
    storage.write_atomic(sidecar, raw)
    storage.write_atomic(sidecar + ".json", json.dumps(asdict(info)).encode() + b"\n")
    return storage.local_path(sidecar) if storage.is_local(sidecar) else None


def sidecar_of(url: str, index_dir: str | None) -> str:
    """Where the offsets of `url` are: beside it, or in `index_dir` under a name with a hash of the folder of `url`."""
    if index_dir is None:
        return url + ".idx"
    place = os.path.abspath(storage.local_path(url)) if storage.is_local(url) else url
    folder = hashlib.sha256(storage.parent(place).encode()).hexdigest()[:12]
    return storage.join(index_dir, f"{storage.name(place)}.{folder}.idx")


def _open_or_error(where: str, url: str, index_dir: str | None) -> FileIndex | UnusableIndexError:
    try:
        return open_index(where, url, index_dir)
    except UnusableIndexError as error:
        return error


class _LocalOffsets(NamedTuple):
    path: str | None
    """Local file of the offsets; None if it cannot be written."""
    offsets: Offsets


def _local_offsets(sidecar: str, info: IndexInfo) -> _LocalOffsets:
    """The offsets of a sidecar, and a local file of them. Raises ValueError if the sidecar is damaged.

    A sidecar in a store is copied once to each machine, where all processes of all runs find it.
    """
    if storage.is_local(sidecar):
        return _LocalOffsets(storage.local_path(sidecar), _checked(storage.read_bytes(sidecar), info))
    name = hashlib.sha256(f"{sidecar} {info}".encode()).hexdigest()[:32]
    copy = _cache_folder() / f"{name}.idx"
    try:
        return _LocalOffsets(str(copy), _checked(copy.read_bytes(), info))
    except (OSError, ValueError):
        raw = storage.read_bytes(sidecar)
    offsets = _checked(raw, info)
    try:
        storage.write_atomic(str(copy), raw)
    except OSError as error:
        log.info("the index %s stays in memory: %s", sidecar, error)
        return _LocalOffsets(None, offsets)
    return _LocalOffsets(str(copy), offsets)


def _checked(raw: bytes, info: IndexInfo) -> Offsets:
    """The content of an `.idx` file as offsets. Raises ValueError if `info` does not describe it."""
    if len(raw) != 8 * (info.records + 1) or zlib.crc32(raw) != info.crc32:
        raise ValueError("its two files do not belong together")
    return np.frombuffer(raw, dtype="<u8")


def _cache_folder() -> Path:
    """The folder of copies on this machine: in the user's cache, or in a temporary folder if there is no home."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(home) or not os.access(os.path.dirname(home), os.W_OK):
        home = os.path.join(tempfile.gettempdir(), f"cclm-cache-{os.getuid()}")
    return Path(home) / "cclm" / "index"
