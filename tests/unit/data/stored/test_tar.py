"""Tar shards: records found as tarfile finds them, damage named, and the same batches as from line-JSON."""

from __future__ import annotations

import base64
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from record_files import image_text, jpeg, pair, write_lines

from cclm import storage
from cclm.config.sources import ImageTextSource
from cclm.data.batches.loader import open_source
from cclm.data.stored import tar
from cclm.data.stored.formats import Format
from cclm.data.stored.index import open_index, write_sidecars
from cclm.data.stored.records import BrokenRecord, parse_image_text
from cclm.errors import UserError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def _write(path: Path, members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("format", FORMATS)
def test_records_are_what_tarfile_reads(tmp_path: Path, format: str) -> None:
    rng = random.Random(3)
    expected: list[tuple[str, dict[str, bytes]]] = []
    members: list[tuple[str, bytes]] = []
    for number in range(60):
        long = "x" * rng.choice([0, 0, 60, 76 if format == "ustar" else 190]) + (
            "é" if format != "ustar" and number % 5 == 0 else ""
        )
        key = f"folder{number % 3}/{number:06d}{long}"
        files = {ext: rng.randbytes(rng.choice([0, 1, 511, 512, 513, 3000])) for ext in ("jpg", "json", "seg.png")}
        expected.append((key, files))
        members += [(f"{key}.{ext}", data) for ext, data in files.items()]
        members += [(f"folder{number % 3}/._hidden{number}.jpg", b"resource fork")] * (number % 7 == 0)
    index = open_index("k", str(_write(tmp_path / "s.tar", members, FORMATS[format])))
    assert index.num_records == 60
    for i, (key, files) in enumerate(expected):
        data = storage.read_range(index.url, *index.byte_range(i, i + 1))
        assert tar.members_of_record(data) == files and tar.key_of_record(data) == key
    assert index.line_number(5) is None


def test_damage_is_named(tmp_path: Path) -> None:
    whole = _write(tmp_path / "s.tar", [(f"{i}.txt", b"a dog" * 300) for i in range(8)]).read_bytes()
    step = 512 + 1536
    for broken, said in (
        (whole[: 3 * step + 700], "ends in the middle of 3.txt, at byte 6844"),
        (whole[: 3 * step], "has no end mark after byte 6144, so it was cut off"),
        (whole[: 3 * step] + b"x" * 512 + whole[4 * step :], "no tar header at byte 6144"),
        (whole + whole, "goes on after its end mark"),
    ):
        (tmp_path / "b.tar").write_bytes(broken)
        with pytest.raises(UserError, match=f"^k: .*b.tar is not a whole tar file: .*{said}"):
            open_index("k", f"{tmp_path}/b.tar")
    (tmp_path / "empty.tar").write_bytes(bytes(10240))
    assert open_index("k", f"{tmp_path}/empty.tar").num_records == 0


def test_what_holds_no_record_may_end_an_archive(tmp_path: Path) -> None:
    for kind, name in ((tarfile.DIRTYPE, "folder"), (tarfile.SYMTYPE, "1.txt"), (tarfile.REGTYPE, "._hidden")):
        for first in ([("0.txt", b"a dog" * 300)], []):
            path = _write(tmp_path / "s.tar", first)
            with tarfile.open(path, "a") as archive:
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "0.txt" if kind == tarfile.SYMTYPE else ""
                info.size = 600 if kind == tarfile.REGTYPE else 0
                archive.addfile(info, io.BytesIO(b"x" * info.size))
            index = open_index("k", str(path))
            assert index.num_records == len(first)
            if first:
                data = storage.read_range(index.url, *index.byte_range(0, 1))
                assert tar.members_of_record(data) == {"txt": b"a dog" * 300}


def test_neighbours_with_one_key_are_not_taken_for_one_record(make_config: Any, tmp_path: Path) -> None:
    """Else the first of them would be lost without a word."""
    records = [[(f"{key}.jpg", jpeg(i)), (f"{key}.txt", b"a dog")] for i, key in enumerate(("a", "b", "b", "a", "c"))]
    path = _write(tmp_path / "s.tar", sum(records, []))
    with pytest.raises(
        UserError, match=r"^k: .*s\.tar: two neighbouring records have the key of b\.jpg \(again at byte 6144\)"
    ):
        open_index("k", str(path))
    with tarfile.open(path) as archive:  # an index of before, which took both for one
        starts = [info.offset for info in archive if info.name.endswith(".jpg")]
    offsets = np.array([*starts[:2], *starts[3:], path.stat().st_size], dtype="<u8")
    write_sidecars(str(path), storage.fingerprint(str(path)), offsets, None)
    source = dict(files=[str(path)], batch_size=1, num_workers=0)
    stream = open_source("images", make_config({"images": source}), rank=0, world_size=1)
    for _ in zip(range(4), stream.batches(0), strict=False):
        pass
    assert stream.skipped == {"broken tar members": 1}


def test_our_members_are_tarfile_s(tmp_path: Path) -> None:
    files = {"a.jpg": b"x" * 700, "folder/" + "long" * 60 + ".txt": b"", "ü.json": b"{}"}
    (tmp_path / "s.tar").write_bytes(b"".join(tar.write_member(*file) for file in files.items()) + tar.END_MARK)
    with tarfile.open(tmp_path / "s.tar", "r:") as archive:
        assert {info.name: archive.extractfile(info).read() for info in archive} == files


def test_batches_equal_those_of_line_json(make_config: Any, tmp_path: Path) -> None:
    records = {"images": [image_text(i) for i in range(20)], "texts": [pair(i) for i in range(20)]}
    members: dict[str, list[tuple[str, bytes]]] = {"images": [], "texts": []}
    for i, record in enumerate(records["images"]):
        members["images"].append((f"{i}.jpg", base64.b64decode(record["binary"])))
        members["images"].append((f"{i}.json", json.dumps({"caption": record["caption"]}).encode()))
    members["texts"] = [(f"{i}.json", json.dumps(record).encode()) for i, record in enumerate(records["texts"])]
    for kind in records:
        urls = [write_lines(tmp_path / f"{kind}.jsonl", records[kind]), _write(tmp_path / f"{kind}.tar", members[kind])]
        configs = [make_config({kind: dict(files=[str(url)], batch_size=4, num_workers=0)}) for url in urls]
        lines, shards = (open_source(kind, config, rank=0, world_size=1).batches(0) for config in configs)
        for one, two, _ in zip(lines, shards, range(10), strict=False):
            if kind == "images":
                assert torch.equal(one.images, two.images) and torch.equal(one.text.data, two.text.data)
            else:
                assert torch.equal(one.source.data, two.source.data) and torch.equal(one.target.data, two.target.data)


def test_captions_in_text_members_and_broken_records(make_config: Any, tmp_path: Path) -> None:
    members = [("0.jpg", jpeg(0)), ("0.txt", b"a red dog"), ("1.jpg", jpeg(1)), ("1.txt", b"a blue cat")]
    members += [("2.jpg", jpeg(2)), ("3.txt", b"no image"), ("4.jpg", jpeg(4)), ("4.png", jpeg(4)), ("4.txt", b"two")]
    members += [("5.jpg", b""), ("5.txt", b"empty image"), ("6.jpg", jpeg(6)), ("6.json", b"[]")]
    source = dict(files=[str(_write(tmp_path / "s.tar", members))], batch_size=1, num_workers=0)
    stream = open_source("images", make_config({"images": source}), rank=0, world_size=1)
    batches = stream.batches(0)
    for _ in range(7):
        assert next(batches).images.shape == (1, 32, 32, 3)
    assert stream.skipped == {"missing key": 2, "wrong type": 2, "broken image": 1}


@pytest.mark.parametrize("format", FORMATS)
def test_a_header_with_another_byte_is_refused_where_tarfile_refuses_it(format: str) -> None:
    info = tarfile.TarInfo("000001.jpg")
    info.size, info.mode, info.mtime = 1000, 0o644, 1_700_000_000
    header = info.tobuf(FORMATS[format], "utf-8")
    rng = random.Random(7)
    refused = 0
    for at in range(512):
        block = bytearray(header)
        block[at] ^= 1 << rng.randrange(8)
        data = bytes(block) + bytes(1024)
        try:
            read = tarfile.TarInfo.frombuf(bytes(block), "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            with pytest.raises(tar.DamagedTarError, match="no tar header at byte 0"):
                tar.members_of_record(data)
            refused += 1
        else:
            assert read.name == "000001.jpg" and tar.members_of_record(data) == {"jpg": bytes(1000)}
    assert refused > 490


def test_names_with_several_dots_are_named_as_the_cause() -> None:
    """The key ends at the first dot, so files named by dates are one record, or a record without its caption."""

    def parse(*names: str) -> None:
        contents = {"jpg": b"image", "txt": b"a dog", "json": b'{"caption": "a dog"}'}
        data = b"".join(tar.write_member(name, contents[name.rpartition(".")[2]]) for name in names)
        parse_image_text(data, ImageTextSource(files=("x",), batch_size=1), Format.TAR)

    with pytest.raises(BrokenRecord, match=r"there are 6 images: \.01\.jpg \.02\.jpg .*\.04\.jpg \.\.\.; the key"):
        parse(*(f"IMG_2021.0{day}.jpg" for day in range(1, 7)))
    for text in ("txt", "json"):
        with pytest.raises(BrokenRecord, match=rf"no \.json or \.txt, but \.03\.04\.{text}; the key of a record"):
            parse("IMG_2021.03.04.jpg", f"IMG_2021.03.04.{text}")
    parse("1.left.jpg", "1.txt", "1.meta.json")  # Extensions with dots have their uses.


@pytest.mark.parametrize(("names", "image"), [(["A.tif"], b"A.tif"), (["A.tif", "A.jpg"], b"A.jpg")])
def test_a_tiff_is_the_image_unless_there_is_another(names: list[str], image: bytes) -> None:
    data = b"".join(tar.write_member(name, name.encode()) for name in names)
    data += tar.write_member("A.json", b'{"caption": "a dog"}')
    record = parse_image_text(data, ImageTextSource(files=("x",), batch_size=1), Format.TAR)
    assert record.image == image


def test_a_size_below_zero_is_damage(tmp_path: Path) -> None:
    """Read as it stands it would lead back to a header that was read before, for ever."""
    first, second = tarfile.TarInfo("a.jpg").tobuf(), bytearray(tarfile.TarInfo("b.jpg").tobuf())
    second[124:136] = b"-0000002000\0"
    second[148:156] = b"%06o\0 " % (sum(second) - sum(second[148:156]) + 8 * ord(" "))
    data = first + bytes(second) + tar.END_MARK
    with pytest.raises(tar.DamagedTarError, match="b.jpg has a size of -1024 bytes, at byte 512"):
        tar.record_starts(lambda start, end: data[start:end], len(data))
