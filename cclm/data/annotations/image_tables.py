"""WIT's images: tables (tab-separated `.csv` files) of URL and base64 image, with an index from URL to image.

The index of a table is built once and kept in a sidecar `<table>.urls`. It holds a header (magic, size and version of
the table, number of rows) and then one row for each image, sorted: four little-endian uint64, namely 128 bits of the
BLAKE2b hash of the URL, the first byte of the base64 text, and the byte after it. Tables are neither rewritten nor
kept in memory.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cclm import storage
from cclm.data.annotations.annotation_sets import ImageRef
from cclm.data.annotations.source import scan_lines
from cclm.data.stored.index import sidecar_of
from cclm.errors import UserError

log = logging.getLogger(__name__)

_HEADER = struct.Struct("<16sQ16sQ")
_MAGIC = b"cclm image urls1"
_ROW = np.dtype([("high", "<u8"), ("low", "<u8"), ("start", "<u8"), ("end", "<u8")])

Rows = NDArray[np.void]
"""(n,) of the dtype above: the rows of an index."""


def find_images(urls: Iterable[str], tables: Sequence[str], index_dir: str | None = None) -> dict[str, ImageRef]:
    """URL -> where its image is, for the URLs that the tables have. Of several images, the first table's is taken.

    Args:
        tables: `.csv` files, or folders of them.
        index_dir: folder of the indexes. None: beside the tables.

    Raises:
        UserError: there is no table, or a table is not a tab-separated file of images.
    """
    wanted = list(dict.fromkeys(urls))
    keys = np.array([_key(url.encode("utf-8", "surrogatepass")) for url in wanted], dtype="<u8").reshape(-1, 2)
    found: dict[str, ImageRef] = {}
    for table in table_files(tables):
        rows = open_table(table, index_dir)
        high = np.append(rows["high"], np.uint64(0))  # searchsorted may return the place after the last row
        places = np.searchsorted(rows["high"], keys[:, 0])
        for i in np.flatnonzero(high[places] == keys[:, 0]).tolist():
            place = int(places[i])
            while place < len(rows) and rows["high"][place] == keys[i, 0]:
                if rows["low"][place] == keys[i, 1]:
                    span = int(rows["start"][place]), int(rows["end"][place])
                    found.setdefault(wanted[i], ImageRef(table, *span))
                    break
                place += 1
    return found


def table_files(tables: Sequence[str]) -> list[str]:
    """All `.csv` files that `tables` (files or folders) name. Raises UserError if one is missing or still packed."""
    files: list[str] = []
    for table in tables:
        try:
            beside = storage.list_files(table)
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"data.image_tables: {table} does not exist; fetch WIT's images or correct it") from None
        here = [file for file in beside if file.endswith(".csv")]
        if not here:
            packed = [file for file in beside if file.endswith(".gz")]
            advice = f"unpack {packed[0]} and its like" if packed else "put WIT's image files there"
            raise UserError(f"data.image_tables: {table} holds no .csv file; {advice}")
        files += here
    return files


def open_table(table: str, index_dir: str | None = None) -> Rows:
    """The index of one table, sorted: read from its sidecar if that is fresh, otherwise built and, if possible, kept.

    Of several processes of a machine that need the index at the same time, one builds it and the others wait.
    """
    stat = storage.fingerprint(table)
    sidecar = sidecar_of(table, index_dir).removesuffix(".idx") + ".urls"
    rows = _read_sidecar(sidecar, table, stat)
    if rows is not None:
        return rows
    with _locked(sidecar):
        rows = _read_sidecar(sidecar, table, stat)
        if rows is not None:
            return rows
        rows = _build(table, stat.size)
        try:
            storage.write_atomic(sidecar, _header(stat, len(rows)) + rows.tobytes())
        except OSError as error:  # a folder that cannot be written
            log.warning("the index of %s stays in memory (%s); set data.index_dir to keep it", table, error)
    return rows


def _key(url: bytes) -> tuple[int, int]:
    """The columns `high` and `low` of a URL."""
    digest = hashlib.blake2b(url, digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def _build(table: str, size: int) -> Rows:
    rows: list[tuple[int, int, int, int]] = []  # in the order of _ROW; bare tuples, which numpy converts to records
    with tqdm(
        total=size, unit="B", unit_scale=True, desc=f"indexing {os.path.basename(table)}", disable=None, leave=False
    ) as bar:
        for line in scan_lines(table):
            bar.update(len(line.content) + 1)
            if not line.content.strip():
                continue
            url, tab, rest = line.content.partition(b"\t")
            if not tab:
                raise UserError(f"{table}, byte {line.start}: no tab; lines of URL, tab and base64 image are expected")
            content = rest.partition(b"\t")[0].rstrip(b"\r")
            at = line.start + len(url) + 1
            rows.append((*_key(url), at, at + len(content)))
    found = np.array(rows, dtype=_ROW)
    return found[np.lexsort((found["start"], found["low"], found["high"]))]


def _header(stat: storage.FileStat, rows: int) -> bytes:
    """The header of the index of a table in the state `stat`."""
    tag = hashlib.blake2b(str(stat.tag).encode(), digest_size=16).digest()
    return _HEADER.pack(_MAGIC, stat.size, tag, rows)


def _read_sidecar(sidecar: str, table: str, stat: storage.FileStat) -> Rows | None:
    """The rows of a sidecar. None if it is missing or describes another state of the table."""
    try:
        size = storage.size(sidecar)
        header = storage.read_range(sidecar, 0, min(size, _HEADER.size))
    except (FileNotFoundError, NotADirectoryError):
        return None
    number = max(0, size - _HEADER.size) // _ROW.itemsize
    if header != _header(stat, number) or size != _HEADER.size + number * _ROW.itemsize:
        log.warning("the index %s does not describe %s (%d bytes); indexing it again", sidecar, table, stat.size)
        return None
    if number and storage.is_local(sidecar):
        return np.memmap(storage.local_path(sidecar), dtype=_ROW, mode="r", offset=_HEADER.size)
    return np.frombuffer(storage.read_bytes(sidecar), dtype=_ROW, offset=_HEADER.size)


@contextmanager
def _locked(sidecar: str) -> Iterator[None]:
    """Let in one process of this machine at a time. Has no effect if no lock file can be made."""
    path = f"{storage.local_path(sidecar)}.lock"
    if not storage.is_local(sidecar):
        path = os.path.join(tempfile.gettempdir(), f"cclm-{hashlib.sha256(sidecar.encode()).hexdigest()[:16]}.lock")
    file = None
    with suppress(OSError):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        file = open(path, "w")  # closed below
    if file is None:
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
        with suppress(OSError):
            os.unlink(path)
