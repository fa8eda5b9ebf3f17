"""`cclm data shard`: convert data files of any readable form to shards of one format and size, with their index.

The output is either whole or unusable: while shards are written, a marker file is in the folder, and readers refuse
such a folder. If the command was cut off, the same command removes what is left there and begins again. The order of
the records is kept.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pybase64

from cclm import storage
from cclm.data.stored import records
from cclm.data.stored.files import UNFINISHED, whole_files
from cclm.data.stored.formats import Format
from cclm.data.stored.index import Bar, write_sidecars
from cclm.data.stored.reading import UNREADABLE, RawRecord, format_inside, read_records
from cclm.data.stored.records import BrokenRecord
from cclm.data.stored.scan import Advance
from cclm.data.stored.tar import END_MARK, key_of_record, members_of_record, write_member
from cclm.errors import UserError

_OURS = re.compile(r"part-\d{4,}-\d{5,}\.(jsonl|tar)(\.idx|\.idx\.json)?")
_IN_FIELDS = ("json", "txt")
_SHARDS_A_GROUP = 16  # input files are converted in groups, each of about this many shards; groups run in parallel
_MAGIC = {
    "jpg": (b"\xff\xd8\xff",),
    "png": (b"\x89PNG",),
    "gif": (b"GIF8",),
    "bmp": (b"BM",),
    "tif": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "jp2": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    "pgm": (b"P2", b"P5"),
    "ppm": (b"P3", b"P6"),
}
"""Extension of a member of a tar -> what such images begin with."""


@dataclass(frozen=True)
class ShardOptions:
    """What to write."""

    format: Format
    size: int
    """Bytes of a shard. The record with which a shard reaches this size is its last one."""
    image_key: str = "binary"
    """Field of a line that holds a base64 image. In a tar, the image is a member of its own."""
    caption_key: str = "caption"
    """Field of a line that gets the text of a `.txt` member."""
    skip_broken: bool = False
    """Leave out records that cannot be read, instead of stopping at the first one."""


@dataclass
class ShardSummary:
    """What was written."""

    records: int = 0
    shards: int = 0
    size: int = 0
    """Bytes of all shards."""
    broken: list[str] = field(default_factory=list)
    """Records that were left out: their places and what is wrong with them."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Members of tars that a line cannot hold, by extension."""

    def add(self, other: ShardSummary) -> None:
        """Add what another group wrote."""
        self.records += other.records
        self.shards += other.shards
        self.size += other.size
        self.broken += other.broken
        self.dropped.update(other.dropped)


def shard(where: str, urls: Sequence[str], out: str, options: ShardOptions, bar: Bar) -> ShardSummary:
    """Write the records of `urls` (files or folders) into the folder `out`, which must be empty or absent.

    Raises:
        UserError: an input is missing, damaged or broken, or `out` is not empty. Then no shard stays in `out`.
    """
    if storage.is_local(out):  # `new/../data` is `data`, but seems to be missing until `new` exists.
        out = os.path.realpath(storage.local_path(out))
    files = _inputs(where, urls, out)
    sizes = [storage.size(file) for file in files]
    bar.total = (bar.total or 0) + sum(sizes)
    claim = _claim(where, out)
    lock = threading.Lock()

    def advance(count: int) -> None:
        with lock:
            bar.update(count)

    result = ShardSummary()
    stop = threading.Event()
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    try:
        futures = []
        for number, group in enumerate(_groups(files, sizes, options.size * _SHARDS_A_GROUP)):
            inputs = (record for file in group for record in _parsed(where, file, options, advance))
            futures.append(pool.submit(_write_group, where, number, inputs, out, options, stop))
        for future in futures:
            result.add(future.result())
        if result.records == 0:
            raise UserError(f"{where}: there is no record in {', '.join(urls)}")
        if not _holds(out, claim):
            raise UserError(f"{where}: another command began to write into {out}; give each a folder of its own")
    except BaseException:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        if _holds(out, claim):
            _remove_ours(out)
        raise
    pool.shutdown()
    storage.delete(storage.join(out, UNFINISHED))
    return result


def _inputs(where: str, urls: Sequence[str], out: str) -> list[str]:
    places = [os.path.realpath(storage.local_path(url)) if storage.is_local(url) else url.rstrip("/") for url in urls]
    if out.rstrip("/") in places:
        raise UserError(f"{where}: {out} is input and output; choose another folder for the output")
    files = whole_files(where, urls)
    unreadable = next((file for file in files if file.endswith(UNREADABLE)), None)
    if unreadable is not None:
        raise UserError(f"{where}: {unreadable} has a compression that is not read here; unpack it first")
    return files


def _claim(where: str, out: str) -> bytes:
    """Write the marker into `out`. Returns its content, which no other command writes.

    A marker that is there already is replaced. It is usually of a command that was cut off. If that command still runs,
    it sees at its end that the marker is no longer its own.

    Raises:
        UserError: `out` is a file or not empty, or another command began at the same time.
    """
    claim = f"cclm data shard is writing here: {uuid.uuid4().hex}\n".encode()
    try:
        names = [entry.name for entry in storage.list_entries(out)]
    except UserError:
        raise
    except FileNotFoundError:
        names = []
    except NotADirectoryError:
        raise UserError(f"{where}: {out} is a file; give a folder") from None
    if UNFINISHED in names:
        _remove_ours(out)  # an earlier one was cut off
    elif names:
        raise UserError(f"{where}: {out} is not empty ({names[0]}); choose another folder, or empty it")
    try:
        storage.write_new(storage.join(out, UNFINISHED), claim)
    except FileExistsError:
        raise UserError(f"{where}: another command writes into {out}; wait for it, or choose another folder") from None
    return claim


def _holds(out: str, claim: bytes) -> bool:
    """Whether the marker in `out` is still the one with this content."""
    try:
        return storage.read_bytes(storage.join(out, UNFINISHED)) == claim
    except FileNotFoundError:
        return False


def _remove_ours(out: str) -> None:
    """Delete what this command writes, the marker last: if this is cut off, readers still refuse the folder."""
    for entry in storage.list_entries(out):
        if _OURS.fullmatch(entry.name):
            storage.delete(storage.join(out, entry.name))
    storage.delete(storage.join(out, UNFINISHED))


def _groups(files: Sequence[str], sizes: Sequence[int], at_least: int) -> Iterator[list[str]]:
    """Groups of neighbouring files, each of at least so many bytes.

    They do not depend on the number of processors, so the shards do not either.
    """
    group: list[str] = []
    total = 0
    for file, size in zip(files, sizes, strict=True):
        group.append(file)
        total += size
        if total >= at_least:
            yield group
            group, total = [], 0
    if group:
        yield group


@dataclass(frozen=True)
class _Parsed:
    """A record between two formats: exactly one of `fields`, `members` and `broken` is set."""

    place: str
    """For messages."""
    fields: dict[str, Any] | None = None
    """What a line of JSON holds; an image for a tar is bytes."""
    members: bytes | None = None
    """Members of a tar, as they are."""
    dropped: tuple[str, ...] = ()
    """Extensions of members that `fields` do not hold."""
    broken: BrokenRecord | None = None


def _parsed(where: str, url: str, options: ShardOptions, advance: Advance) -> Iterator[_Parsed]:
    kind = format_inside(url)
    for record in read_records(where, url, advance):
        try:
            yield _parse(record, kind, options)
        except BrokenRecord as error:
            yield _Parsed(record.place, broken=error)


def _parse(record: RawRecord, kind: Format, options: ShardOptions) -> _Parsed:
    if kind is Format.TAR and options.format is Format.TAR:
        members = records.tar_members(record.data)
        if sum("." in name for name in records.image_extensions(members)) > 1:  # several pictures named by dates
            records.fields_of_members(members, options.image_key, options.caption_key)  # refuses them
        return _Parsed(record.place, members=record.data)
    if kind is Format.TAR:
        members = records.tar_members(record.data)
        fields = records.fields_of_members(members, options.image_key, options.caption_key)
        images = records.image_extensions(members)
        dropped = tuple(name for name in members if name not in images and name.rpartition(".")[2] not in _IN_FIELDS)
        _refuse_rounded(fields)
        image = fields.get(options.image_key)
        if isinstance(image, bytes):
            fields[options.image_key] = pybase64.b64encode(image).decode()
        return _Parsed(record.place, fields, dropped=dropped)
    fields = records.json_object(record.data)
    _refuse_rounded(fields)
    image = fields.get(options.image_key)
    if options.format is Format.TAR and isinstance(image, str):
        fields[options.image_key] = records.from_base64(image, options.image_key)
    return _Parsed(record.place, fields)


def _refuse_rounded(fields: dict[str, Any]) -> None:
    """Raise BrokenRecord for integers over 64 bits: the parser makes floats of them, which would change identifiers."""
    values: list[Any] = [fields]
    while values:
        value = values.pop()
        if isinstance(value, dict | list):
            values.extend(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, float) and abs(value) >= 2**63:
            detail = f"a number of over 64 bits, about {value:g}, would be rounded; make it a text"
            raise BrokenRecord(records.WRONG_TYPE, detail)


def _write_group(
    where: str, number: int, inputs: Iterator[_Parsed], out: str, options: ShardOptions, stop: threading.Event
) -> ShardSummary:
    """Write the shards of one group. `number` is the group's. Raises UserError."""
    result = ShardSummary()
    with tempfile.TemporaryDirectory(prefix="cclm-shard-") as folder:
        writer: _ShardWriter | None = None
        last = ""
        for record in inputs:
            if stop.is_set():
                break
            try:
                key = _key_of(record, f"{number:04d}-{result.records:09d}", last)
                data = _bytes_of(record, key, options)
            except BrokenRecord as error:
                if not options.skip_broken:
                    raise UserError(
                        f"{where}: {record.place} is broken ({error}); mend it, or leave such records out with "
                        "--skip-broken"
                    ) from None
                result.broken.append(f"{record.place}: {error}")
                continue
            writer = writer or _ShardWriter(Path(folder) / "shard")
            writer.add(data)
            last = key
            result.records += 1
            result.dropped.update(record.dropped)
            if writer.size >= options.size:
                result.add(writer.publish(out, number, result.shards, options.format))
                writer = None
        if writer is not None and not stop.is_set():
            result.add(writer.publish(out, number, result.shards, options.format))
    return result


def _key_of(record: _Parsed, ours: str, last: str) -> str:
    """The key of the record's members: the old one, or `ours` for records without members.

    Where the record before (of another file) has the same key `last`, `ours` is appended to tell them apart.
    """
    key = ours if record.members is None else key_of_record(record.members)
    return f"{key}-{ours}" if key == last else key


def _bytes_of(record: _Parsed, key: str, options: ShardOptions) -> bytes:
    """The record in the format of the output. Raises BrokenRecord."""
    if record.broken is not None:
        raise record.broken
    if record.members is not None:
        if key == key_of_record(record.members):
            return record.members
        return b"".join(write_member(f"{key}.{name}", data) for name, data in members_of_record(record.members).items())
    assert record.fields is not None
    if options.format is Format.LINES:
        return orjson.dumps(record.fields) + b"\n"
    image = record.fields.get(options.image_key)
    rest = {name: value for name, value in record.fields.items() if name != options.image_key}
    if not isinstance(image, bytes):
        return write_member(f"{key}.json", orjson.dumps(record.fields))
    return write_member(f"{key}.{_extension(image)}", image) + write_member(f"{key}.json", orjson.dumps(rest))


def _extension(image: bytes) -> str:
    """The extension for an encoded image. Raises BrokenRecord if it is of no format that tars may hold."""
    for extension, beginnings in _MAGIC.items():
        if image.startswith(beginnings):
            return extension
    if image[8:12] == b"WEBP":
        return "webp"
    known = ", ".join([*_MAGIC, "webp"])
    why = f"the data are not an image of a format that a tar may hold ({known}); --format lines takes any data"
    raise BrokenRecord(records.BROKEN_IMAGE, why)


class _ShardWriter:
    """Writes one shard. It is a local file until it is whole."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("wb")
        self._starts: list[int] = []
        self.size = 0

    def add(self, data: bytes) -> None:
        self._file.write(data)
        self._starts.append(self.size)
        self.size += len(data)

    def publish(self, out: str, group: int, number: int, format: Format) -> ShardSummary:
        """Copy the shard to the folder `out`, with its index. Raises UserError if another command writes there."""
        offsets = np.array([*self._starts, self.size], dtype="<u8")
        if format is Format.TAR:
            self._file.write(END_MARK)
        size = self._file.tell()
        self._file.close()
        ending = "tar" if format is Format.TAR else "jsonl"
        url = storage.join(out, f"part-{group:04d}-{number:05d}.{ending}")
        storage.put_file(str(self._path), url)
        stat = storage.fingerprint(url)
        if stat.size != size:
            raise UserError(f"{url} has {stat.size} bytes where {size} were written; another command writes there")
        write_sidecars(url, stat, offsets, None)
        return ShardSummary(shards=1, size=size)
