"""Where every record of a data file starts: small sidecar files beside the data, or in a folder of their own.

`<file>.idx` holds n + 1 little-endian uint64: the start of each of the n records, then the end of the last one (the
same bytes that NVIDIA Energon writes). Record i is the bytes [offset[i], offset[i + 1]); in line-JSON they end with the
line break and with the blank lines that follow, if any. A blank line is no record; a last line without line break is.

`<file>.idx.json` says which state of the file that describes: its size and version. An index that describes another
state is never used. Local files are indexed again on the fly, and the change is named; one that became shorter is
refused, since a copy that was cut off looks so. Files in a store are refused, since there every process of every run
would have to read them through first.
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
from typing import Protocol

import numpy as np

from cclm import storage
from cclm.data.stored.files import data_files
from cclm.data.stored.formats import Format, format_of
from cclm.data.stored.scan import Advance, build_offsets
from cclm.errors import UserError

log = logging.getLogger(__name__)

_AT_ONCE = 16  # files looked at or scanned at once: a store answers each question in tens of milliseconds
_MOST_COUNTED = 64 << 20  # bytes read to tell a line's number


@dataclass(frozen=True)
class IndexInfo:
    """What `<file>.idx.json` holds: the state of the file that the offsets describe."""

    records: int
    size: int
    """Bytes of the data file."""
    tag: str | None
    """Its version, as the store tells it (ETag, generation, time of change)."""
    crc32: int
    """Of the `.idx` file, so that two files written apart cannot be mixed up."""

    def describes(self, stat: storage.FileStat) -> bool:
        return self.size == stat.size and (self.tag == stat.tag or None in (self.tag, stat.tag))

    def change(self, url: str, records: int, size: int) -> str | None:
        """The sentence on a file that has so many records and bytes now; None if as many as then: copies look so."""
        if (records, size) == (self.records, self.size):
            return None
        were = f"{self.records:,} records in {self.size:,} bytes were"
        return f"{url} changed after it was indexed: {were}, {records:,} in {size:,} are"


@dataclass
class FileIndex:
    """The offsets of one file. Sent to workers it carries the sidecar's name, not its contents."""

    url: str
    num_records: int
    num_bytes: int
    sidecar: str | None
    """Local file of the offsets; None if `in_memory` holds them."""
    in_memory: np.ndarray | None = None
    """(n + 1,) uint64."""

    @property
    def format(self) -> Format:
        return format_of(self.url)

    def byte_range(self, first: int, last: int) -> tuple[int, int]:
        """Bytes [start, end) of the records [first, last)."""
        offsets = self.offsets(first, last)
        return offsets[0], offsets[-1]

    def offsets(self, first: int, last: int) -> list[int]:
        """Starts of the records [first, last), then the end of the last one."""
        if self.in_memory is not None:
            return self.in_memory[first : last + 1].tolist()
        assert self.sidecar is not None
        # Read, not mapped: a map keeps its file open, and data sets have more files than a process may open.
        return np.frombuffer(storage.read_range(self.sidecar, first * 8, (last + 1) * 8), dtype="<u8").tolist()

    def line_number(self, record: int) -> int | None:
        """The line, from 1, on which a record stands; for messages. None far down a file, in a store, and in a tar.

        Reads the file up to there.
        """
        start = self.byte_range(record, record)[0]
        if start > _MOST_COUNTED or not storage.is_local(self.url) or self.format is Format.TAR:
            return None
        return storage.read_range(self.url, 0, start).count(b"\n") + 1


class UnusableIndexError(Exception):
    """A file that only `cclm data index` may index; the message says what is wrong."""

    def __init__(self, message: str, remedy: str = "index it with") -> None:
        super().__init__(message)
        self.remedy = remedy


def open_indexes(where: str, urls: Sequence[str], index_dir: str | None = None) -> list[FileIndex]:
    """The index of every file behind `urls` that holds records; local ones are built where missing or stale.

    `where` is the config key, for messages. Raises UserError if there is no record at all, no index of a file in a
    store, or a file that became shorter after it was indexed.
    """
    files = data_files(where, urls)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = list(pool.map(lambda file: _open_or_say(where, file, index_dir), files))
    refused = [answer for answer in answers if isinstance(answer, UnusableIndexError)]
    if refused:
        others = f" ({len(refused)} of {len(files)} files)" if len(files) > 1 else ""
        raise UserError(f"{where}: {refused[0]}{others}; {refused[0].remedy}: {index_command(urls, index_dir)}")
    indexes = [answer for answer in answers if isinstance(answer, FileIndex)]
    filled = [index for index in indexes if index.num_records > 0]
    for index in indexes:
        if index.num_records == 0:
            log.warning("%s: %s holds no record", where, index.url)
    if not filled:
        raise UserError(f"{where}: no records in {', '.join(urls)}; the files there are empty")
    return filled


@dataclass(frozen=True)
class Indexed:
    """What `index_files` found."""

    records: int
    size: int
    """Bytes."""
    fresh: int
    """Files whose index was up to date."""
    empty: list[str]
    """Files without a record."""
    changed: list[str]
    """A sentence for each file that was indexed in another state."""


class Bar(Protocol):
    """A progress bar (tqdm)."""

    total: float

    def update(self, n: int) -> object: ...


def index_files(where: str, files: Sequence[str], index_dir: str | None, *, force: bool, bar: Bar) -> Indexed:
    """Write the sidecars of `files` where they are missing or stale (`force`: of all), several files at a time.

    Raises:
        UserError: a file is not what its name says, or the place takes no files. Those that were done by then keep
            their index.
    """
    lock = threading.Lock()
    if index_dir is not None and storage.is_local(index_dir):
        with _refusing(where, index_dir):
            os.makedirs(storage.local_path(index_dir), exist_ok=True)

    def advance(count: int) -> None:
        with lock:
            bar.update(count)

    changed: list[str] = []

    def one(file: str) -> tuple[int, int, bool]:
        stat = storage.fingerprint(file)
        found = None if force else known_index(file, stat, index_dir)
        if isinstance(found, FileIndex):
            return found.num_records, stat.size, True
        with lock:
            bar.total += stat.size
        offsets = build_offsets(where, file, stat.size, advance, strict=True)
        if storage.fingerprint(file) != stat:
            raise UserError(f"{where}: {file} changed while it was indexed; try again when it is written")
        with _refusing(where, sidecar_of(file, index_dir)):
            write_sidecars(file, stat, offsets, index_dir)
        if found is not None and (change := found.change(file, len(offsets) - 1, stat.size)):
            changed.append(change)
        return len(offsets) - 1, stat.size, False

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        futures = [pool.submit(one, file) for file in files]
        try:
            done = [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    empty = [file for file, (records, _, _) in zip(files, done, strict=True) if records == 0]
    return Indexed(sum(d[0] for d in done), sum(d[1] for d in done), sum(d[2] for d in done), empty, changed)


@contextmanager
def _refusing(where: str, place: str) -> Iterator[None]:
    """What a disk or a store does not take becomes a sentence."""
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
    """What a user types to make or renew the indexes of `urls`."""
    return shlex.join(["cclm", "data", "index", *urls, *(["--index-dir", index_dir] if index_dir else [])])


def open_index(where: str, url: str, index_dir: str | None = None) -> FileIndex:
    """The index of one file: from its sidecars if they are fresh; else built and, where possible, written.

    Raises:
        UnusableIndexError: the file is in a store, or became shorter after it was indexed.
        UserError: the file is not what its name says.
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
        there = known is not None or storage.exists(sidecar_of(url, index_dir) + ".json")
        raise UnusableIndexError(f"{url} changed after it was indexed" if there else f"{url} has no index")
    index = build_index(where, url, stat, index_dir)
    if known is not None and (change := known.change(url, index.num_records, stat.size)):
        log.warning("%s: %s", where, change)
    return index


def known_index(url: str, stat: storage.FileStat, index_dir: str | None) -> FileIndex | IndexInfo | None:
    """The index in the sidecars of a file; what they say, if that is of another state of the file; None without any."""
    sidecar = sidecar_of(url, index_dir)
    try:
        info = IndexInfo(**json.loads(storage.read_bytes(sidecar + ".json")))
        if not info.describes(stat):
            return info
        place, offsets = _offsets(sidecar, info)
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
    """Scan a file and write its sidecars; where they cannot be written the offsets stay in memory.

    Raises:
        UserError: the file is not what its name says.
    """
    offsets = build_offsets(where, url, stat.size, advance)
    try:
        place = write_sidecars(url, stat, offsets, index_dir)
    except OSError as error:  # a read-only folder
        log.info("the index of %s stays in memory (%s); set data.index_dir to keep it", url, error)
        place = None
    return FileIndex(url, len(offsets) - 1, stat.size, place, None if place else offsets)


def write_sidecars(url: str, stat: storage.FileStat, offsets: np.ndarray, index_dir: str | None) -> str | None:
    """Publish the offsets, then what they describe. Returns the local path of the offsets, None if in a store.

    Raises:
        OSError: the place takes no files.
    """
    sidecar, raw = sidecar_of(url, index_dir), offsets.astype("<u8").tobytes()
    info = IndexInfo(len(offsets) - 1, stat.size, stat.tag, zlib.crc32(raw))
    storage.write_atomic(sidecar, raw)
    storage.write_atomic(sidecar + ".json", json.dumps(asdict(info)).encode() + b"\n")
    return storage.local_path(sidecar) if storage.is_local(sidecar) else None


def sidecar_of(url: str, index_dir: str | None) -> str:
    """Where the offsets of `url` lie: beside it, or under `index_dir` with a name that tells folders apart."""
    if index_dir is None:
        return url + ".idx"
    place = os.path.abspath(storage.local_path(url)) if storage.is_local(url) else url
    folder = hashlib.sha256(storage.parent(place).encode()).hexdigest()[:12]
    return storage.join(index_dir, f"{storage.name(place)}.{folder}.idx")


def _open_or_say(where: str, url: str, index_dir: str | None) -> FileIndex | UnusableIndexError:
    try:
        return open_index(where, url, index_dir)
    except UnusableIndexError as error:
        return error


def _offsets(sidecar: str, info: IndexInfo) -> tuple[str | None, np.ndarray]:
    """A local file with the offsets (None: nothing takes one), and the offsets. Raises ValueError for damage.

    Those in a store are copied once a machine, to where all processes of all runs find them.
    """
    if storage.is_local(sidecar):
        return storage.local_path(sidecar), _checked(storage.read_bytes(sidecar), info)
    name = hashlib.sha256(f"{sidecar} {info}".encode()).hexdigest()[:32]
    copy = _cache_folder() / f"{name}.idx"
    try:
        return str(copy), _checked(copy.read_bytes(), info)
    except (OSError, ValueError):
        raw = storage.read_bytes(sidecar)
    offsets = _checked(raw, info)
    try:
        storage.write_atomic(str(copy), raw)
    except OSError as error:
        log.info("the index %s stays in memory: %s", sidecar, error)
        return None, offsets
    return str(copy), offsets


def _checked(raw: bytes, info: IndexInfo) -> np.ndarray:
    if len(raw) != 8 * (info.records + 1) or zlib.crc32(raw) != info.crc32:
        raise ValueError("its two files do not belong together")
    return np.frombuffer(raw, dtype="<u8")


def _cache_folder() -> Path:
    """Of this machine: the user's cache, or a temporary folder where there is no home."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(home) or not os.access(os.path.dirname(home), os.W_OK):
        home = os.path.join(tempfile.gettempdir(), f"cclm-cache-{os.getuid()}")
    return Path(home) / "cclm" / "index"
