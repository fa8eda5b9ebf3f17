"""Where every record of a line-JSON file starts: small sidecar files of byte offsets.

A sidecar `<file>.idx` holds n + 1 little-endian uint64: the start of each of the n records, then the file's size
(the same bytes that NVIDIA Energon writes). Record i is the bytes [offset[i], offset[i + 1]); they end with the line
break and with the blank lines that follow, if any. A blank line is no record; a last line without line break is one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cclm import storage
from cclm.errors import UserError

log = logging.getLogger(__name__)

_BLOCK = 8 << 20  # bytes of one read of the scan
_MOST_COUNTED = 64 << 20  # bytes read to tell a line's number
_COMPRESSED = (".gz", ".bz2", ".zst", ".xz", ".zip")
_IS_SPACE = np.zeros(256, dtype=bool)
_IS_SPACE[list(b" \t\r\n\v\f")] = True


@dataclass
class FileIndex:
    """The offsets of one file. Sent to workers it carries the sidecar's name, not its contents."""

    url: str
    num_records: int
    num_bytes: int
    sidecar: str | None
    """Local file to map; None if `in_memory` holds the offsets."""
    in_memory: np.ndarray | None = None
    """(n + 1,) uint64."""

    def __post_init__(self) -> None:
        self._mapped: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": None}

    def byte_range(self, first: int, last: int) -> tuple[int, int]:
        """Bytes [start, end) of the records [first, last)."""
        offsets = self._offsets()
        return int(offsets[first]), int(offsets[last])

    def offsets(self, first: int, last: int) -> list[int]:
        """Starts of the records [first, last), then the end of the last one."""
        return [int(offset) for offset in self._offsets()[first : last + 1]]

    def line_number(self, record: int) -> int | None:
        """The line, from 1, on which a record stands; for messages. None where it is far down a file, or in a store.

        Reads the file up to there.
        """
        start = self.byte_range(record, record)[0]
        if start > _MOST_COUNTED or not storage.is_local(self.url):
            return None
        return storage.read_range(self.url, 0, start).count(b"\n") + 1

    def _offsets(self) -> np.ndarray:
        if self.in_memory is not None:
            return self.in_memory
        if self._mapped is None:
            self._mapped = np.memmap(self.sidecar, dtype="<u8", mode="r")
        return self._mapped


def data_files(where: str, urls: Sequence[str]) -> list[str]:
    """All data files behind `urls` (files or folders), in the order given, each folder sorted.

    `where` is the config key, for messages. Raises UserError for what is missing, empty or compressed.
    """
    files: list[str] = []
    for url in urls:
        try:
            found = [file for file in storage.list_files(url) if not file.endswith(".idx")]
        except FileNotFoundError:
            raise UserError(f"{where}: {url} does not exist; correct the path or create the data") from None
        if not found:
            raise UserError(f"{where}: the folder {url} holds no data files; put line-JSON files there")
        files.extend(found)
    for file in files:
        if file.endswith(_COMPRESSED):
            raise UserError(f"{where}: {file} is compressed and cannot be read from the middle; unpack it first")
    doubles = sorted({file for file in files if files.count(file) > 1}) if len(set(files)) < len(files) else []
    if doubles:
        raise UserError(f"{where}: {doubles[0]} is listed twice, its records would be seen twice; name it once")
    return files


def open_indexes(where: str, urls: Sequence[str], index_dir: str | None = None) -> list[FileIndex]:
    """The index of every file behind `urls` that holds records; built where missing, rebuilt where stale.

    `where` is the config key, for messages. Raises UserError if there is no record at all.
    """
    indexes = [open_index(file, index_dir) for file in data_files(where, urls)]
    filled = [index for index in indexes if index.num_records > 0]
    for index in indexes:
        if index.num_records == 0:
            log.warning("%s: %s holds no record", where, index.url)
    if not filled:
        raise UserError(f"{where}: no records in {', '.join(urls)}; the files there are empty")
    return filled


def open_index(url: str, index_dir: str | None = None) -> FileIndex:
    """The index of one file: from its sidecar if that is fresh, else built and, where possible, written."""
    num_bytes = storage.size(url)
    sidecar = sidecar_of(url, index_dir)
    offsets = _read_sidecar(sidecar, url, num_bytes)
    if offsets is not None:
        return FileIndex(url, len(offsets) - 1, num_bytes, sidecar)
    built = build_offsets(url)
    try:
        storage.write_atomic(sidecar, built.tobytes())
    except (OSError, NotImplementedError) as error:  # a read-only folder, or a store: keep it in memory
        log.info("the index of %s stays in memory (%s); set data.index_dir to keep it", url, error)
        return FileIndex(url, len(built) - 1, num_bytes, None, built)
    return FileIndex(url, len(built) - 1, num_bytes, sidecar)


def sidecar_of(url: str, index_dir: str | None) -> str:
    """Where the index of `url` lies: beside it, or under `index_dir` with a name that tells folders apart."""
    if index_dir is None:
        return storage.local_path(url) + ".idx" if storage.is_local(url) else url + ".idx"
    folder, name = posixpath.split(os.path.abspath(storage.local_path(url)) if storage.is_local(url) else url)
    return posixpath.join(index_dir, f"{name}.{hashlib.sha256(folder.encode()).hexdigest()[:12]}.idx")


def build_offsets(url: str) -> np.ndarray:
    """Scan a file: (n + 1,) little-endian uint64 record starts and the size."""
    num_bytes = storage.size(url)
    starts: list[np.ndarray] = []
    base, rest = 0, b""  # `rest` is the unfinished line at the end of the last block, and starts at `base`
    for at in range(0, num_bytes, _BLOCK):
        end = min(at + _BLOCK, num_bytes)
        block = rest + storage.read_range(url, at, end)
        cut = len(block) if end == num_bytes else block.rfind(b"\n") + 1
        lines, rest = block[:cut], block[cut:]
        starts.append(_record_starts(lines) + np.uint64(base))
        base += cut
    return np.concatenate([*starts, np.array([num_bytes])]).astype("<u8")


def _record_starts(lines: bytes) -> np.ndarray:
    """(n,) uint64: starts of the lines that are not blank in a buffer of whole lines."""
    if not lines:
        return np.zeros(0, dtype=np.uint64)
    values = np.frombuffer(lines, dtype=np.uint8)
    after_breaks = np.flatnonzero(values == ord("\n")) + 1
    starts = np.concatenate([np.zeros(1, dtype=np.int64), after_breaks])
    if starts[-1] == len(lines):
        starts = starts[:-1]
    keep = np.ones(len(starts), dtype=bool)
    for line in np.flatnonzero(_IS_SPACE[values[starts]]):  # rare: only these can be blank
        end = starts[line + 1] if line + 1 < len(starts) else len(lines)
        keep[line] = bool(lines[starts[line] : end].strip())
    return starts[keep].astype(np.uint64)


def _read_sidecar(sidecar: str, url: str, num_bytes: int) -> np.ndarray | None:
    """The offsets in a sidecar, or None if it is missing or describes another state of the file."""
    if not storage.is_local(sidecar) or not storage.exists(sidecar):
        return None
    changed = storage.modified_ns(url)
    written = storage.modified_ns(sidecar)
    if changed is not None and written is not None and changed > written:
        log.info("%s changed after its index was written; indexing it again", url)
        return None
    raw = storage.read_bytes(sidecar)
    offsets = np.frombuffer(raw, dtype="<u8") if raw and len(raw) % 8 == 0 else np.zeros(0, dtype="<u8")
    if len(offsets) == 0 or int(offsets[-1]) != num_bytes or bool(np.any(offsets[1:] < offsets[:-1])):
        log.warning("the index %s does not describe %s (%d bytes); indexing it again", sidecar, url, num_bytes)
        return None
    return offsets
