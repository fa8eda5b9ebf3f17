"""Byte offsets of records: what counts as one, and when a sidecar is believed."""

import os
import pickle
import random
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cclm import storage
from cclm.data.commands import sharding
from cclm.data.stored import files, index, scan
from cclm.errors import UserError

WHERE = "data.images.files"


class Bar:
    """A progress bar that shows nothing."""

    total = 0.0

    def update(self, n: int) -> None: ...


def _records(file: index.FileIndex) -> list[bytes]:
    ranges = [file.byte_range(i, i + 1) for i in range(file.num_records)]
    return [storage.read_range(file.url, *pair).strip() for pair in ranges]


@pytest.mark.parametrize(
    "content, expected, lines",
    [
        (b'{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}'], [1, 2]),
        (b'{"a":1}\r\n\r\n{"b":2}\r\n', [b'{"a":1}', b'{"b":2}'], [1, 3]),
        (b'\n \t\n{"a":1}\n\n\n{"b":2}', [b'{"a":1}', b'{"b":2}'], [3, 6]),
        (b'{"a":1}\n{"b":', [b'{"a":1}', b'{"b":'], [1, 2]),
        (b"  x\n", [b"x"], [1]),
        (b"", [], []),
        (b"\n\n", [], []),
    ],
)
def test_what_a_record_is(tmp_path: Path, content: bytes, expected: list[bytes], lines: list[int]) -> None:
    (tmp_path / "f").write_bytes(content)
    built = index.open_index(WHERE, str(tmp_path / "f"))
    again = index.open_index(WHERE, str(tmp_path / "f"))  # from the sidecar
    for file in (built, again):
        assert _records(file) == expected
        assert [file.line_number(i) for i in range(file.num_records)] == lines
    raw = np.frombuffer((tmp_path / "f.idx").read_bytes(), dtype="<u8")
    assert len(raw) == len(expected) + 1 and raw[-1] == len(content)


def test_lines_that_cross_blocks_of_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_BLOCK", 7)
    rng = random.Random(1)
    for _ in range(50):
        lines = [rng.choice([b"x" * rng.randint(1, 30), b"", b" ", b"\r"]) for _ in range(rng.randint(1, 12))]
        content = b"\n".join(lines)
        (tmp_path / "f").write_bytes(content)
        offsets = scan.build_offsets(WHERE, str(tmp_path / "f"), len(content))
        found = [content[a:b].strip() for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
        assert found == [line for line in lines if line.strip()]


def test_a_file_without_any_object_is_refused_where_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_BLOCK", 16)
    data = tmp_path / "f"
    bom, cut, long = b'\xef\xbb\xbf{"a":1}', b'{"a\n{"a":1}\nx\n', b'{"caption":"longer than that"}'
    for content in (bom, b'\r\n \n {"a":1}\nx\n', cut, long, b"\n\n", b""):
        data.write_bytes(content)
        assert scan.build_offsets(WHERE, str(data), len(content), strict=True)[-1] == len(content)
    data.write_bytes(b'\n"caption"\nx\n')
    with pytest.raises(UserError, match=f"{data}:2 is no JSON object"):
        scan.build_offsets(WHERE, str(data), 13, strict=True)
    assert len(scan.build_offsets(WHERE, str(data), 13)) == 3  # while training a broken record is counted


def test_a_stale_sidecar_is_rebuilt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tmp_path / "f"
    data.write_text("one\ntwo\n")
    assert index.open_index(WHERE, str(data)).num_records == 2
    data.write_text("one\ntwo\nthree\n")  # another size
    assert index.open_index(WHERE, str(data)).num_records == 3
    were = "2 records in 8 bytes were, 3 in 14 are"
    assert caplog.messages == [f"{WHERE}: {data} changed after it was indexed: {were}"]
    data.write_text("on\ntw\nth\nfour\n")  # the same size, later
    for later in (1, 2):
        then = os.stat(tmp_path / "f.idx").st_mtime_ns + later * 10**9
        os.utime(data, ns=(then, then))
        assert index.open_index(WHERE, str(data)).num_records == 4
    assert "3 records in 14 bytes were, 4 in 14 are" in caplog.messages[1]
    assert len(caplog.messages) == 2  # as many as before: nothing to tell, a copy looks so
    (tmp_path / "f.idx").write_bytes(b"junk!")
    assert index.open_index(WHERE, str(data)).num_records == 4


def test_a_file_that_became_shorter_is_refused_until_it_is_indexed_again(tmp_path: Path) -> None:
    data, other = tmp_path / "a's", tmp_path / "b"
    data.write_text("{}\n" * 3)
    other.write_text("{}\n")
    index.open_indexes(WHERE, [str(data), str(other)])
    data.write_text("{}\n" * 2)
    said = (
        f"{WHERE}: {data} became shorter after it was indexed, from 9 bytes with 3 records to 6 bytes (1 of 2 files); "
        f"copy it again or, if it is whole, index it with: cclm data index '{tmp_path}/a'\"'\"'s' {other}"
    )
    for _ in range(2):
        with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
            index.open_indexes(WHERE, [str(data), str(other)])
    index.index_files("k", [str(data)], None, force=False, bar=Bar())
    assert [file.num_records for file in index.open_indexes(WHERE, [str(data), str(other)])] == [2, 1]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("x.gz", "x.gz ./shards"),
        ("a b/x.gz", "'a b/x.gz' 'a b/shards'"),
        ("memory://bucket/x.gz", "memory://bucket/x.gz memory://bucket/shards"),
    ],
)
def test_compressed_files_are_converted_into_a_folder_of_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    storage.write_atomic(file, b"\x1f\x8b")
    with pytest.raises(UserError, match=f"convert it with: cclm data shard {re.escape(words)}, and read "):
        files.data_files(WHERE, [file])


def test_index_dir_keeps_folders_apart_and_data_clean(tmp_path: Path) -> None:
    for folder, lines in (("a", "1\n"), ("b", "1\n2\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part").write_text(lines)
    kept = str(tmp_path / "index")
    opened = index.open_indexes("data.images.files", [f"{tmp_path}/a", f"{tmp_path}/b"], kept)
    assert [file.num_records for file in opened] == [1, 2]
    assert len(list((tmp_path / "index").iterdir())) == 4
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["part"]


def test_without_a_place_to_write_the_index_stays_in_memory(tmp_path: Path) -> None:
    (tmp_path / "part").write_text("1\n2\n")
    (tmp_path / "file").write_text("")  # a file where index_dir should be: not even root can write there
    file = index.open_index(WHERE, f"{tmp_path}/part", f"{tmp_path}/file/index")
    assert file.sidecar is None and _records(pickle.loads(pickle.dumps(file))) == [b"1", b"2"]


def test_an_index_from_a_sidecar_travels_as_a_name(tmp_path: Path) -> None:
    (tmp_path / "part").write_text("1\n" * 10_000)
    file = index.open_index(WHERE, f"{tmp_path}/part")
    assert file.byte_range(9_999, 10_000) == (19_998, 20_000)
    assert len(pickle.dumps(file)) < 1_000


def test_bad_places_are_told_with_their_key(tmp_path: Path) -> None:
    where = "data.images.files"
    with pytest.raises(UserError, match=r"data\.images\.files: .*/none does not exist"):
        index.open_indexes(where, [f"{tmp_path}/none"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "_SUCCESS").write_text("")
    with pytest.raises(UserError, match=r"data\.images\.files: the folder .*/empty holds no data files"):
        index.open_indexes(where, [f"{tmp_path}/empty"])
    (tmp_path / "blank.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match=r"data\.images\.files: no records in .*blank\.jsonl"):
        index.open_indexes(where, [f"{tmp_path}/blank.jsonl"])
    (tmp_path / "part.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(UserError, match="is compressed"):
        index.open_indexes(where, [f"{tmp_path}/part.gz"])
    (tmp_path / "twice").write_text("1\n")
    with pytest.raises(UserError, match="listed twice"):
        index.open_indexes(where, [f"{tmp_path}/twice", f"{tmp_path}/twice"])
    with pytest.raises(UserError, match="/empty/../twice is listed as .*/twice too"):
        index.open_indexes(where, [f"{tmp_path}/twice", f"{tmp_path}/empty/../twice"])
    with pytest.raises(UserError, match=r"^data\.images\.files: .*nosuch:// is no store"):  # as what a store refuses
        index.open_indexes(where, ["nosuch://bucket/data"])
    for folder in ("above/00", "above/01", "above/_temporary"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(
        UserError, match="above holds folders, no data files; name those instead: .*/above/00 and 1 more$"
    ):
        index.open_indexes(where, [f"{tmp_path}/above"])


def test_files_in_a_store_need_a_fresh_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = f"memory://{tmp_path.name}"
    for part, lines in enumerate((b"1\n2\n", b"3\n")):
        storage.write_atomic(f"{folder}/part-{part}", lines)
    needed = rf"^{WHERE}: {folder}/part-\d .*; index it with: cclm data index {folder}$"
    with pytest.raises(UserError, match=needed.replace(".*", r"has no index \(2 of 2 files\)")):
        index.open_indexes(WHERE, [folder])
    for file in files.data_files(WHERE, [folder]):
        index.build_index(WHERE, file, storage.fingerprint(file), None)
    opened = index.open_indexes(WHERE, [folder])
    assert [_records(file) for file in opened] == [[b"1", b"2"], [b"3"]]
    assert all(file.sidecar.startswith(str(tmp_path / "cache")) for file in opened)
    storage.write_atomic(f"{folder}/part-1", b"3\n4\n5\n")  # grew
    with pytest.raises(UserError, match=needed.replace(".*", r"changed after it was indexed \(1 of 2 files\)")):
        index.open_indexes(WHERE, [folder])


def test_one_source_has_one_format_and_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("1\n")
    (tmp_path / "b.tar").write_bytes(bytes(10240))
    with pytest.raises(UserError, match=r"a\.jsonl is line-JSON and .*b\.tar is tar; a source has one format"):
        index.open_indexes(WHERE, [str(tmp_path)])
    (tmp_path / "b.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(UserError, match=r"b\.tar is not a whole tar file: no tar header at byte 0"):
        index.open_indexes(WHERE, [f"{tmp_path}/b.tar"])
    (tmp_path / "c.jsonl").write_bytes(b"\x1f\x8b\x08" + bytes(600))
    with pytest.raises(UserError, match=r"c\.jsonl holds gzip data, not line-JSON"):
        index.open_indexes(WHERE, [f"{tmp_path}/c.jsonl"])


@pytest.mark.parametrize("named", ["folder", "file", "file in the working folder"])
def test_what_is_still_being_written_is_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    (tmp_path / "a.jsonl").write_text("1\n")
    monkeypatch.chdir(tmp_path)
    url = {"folder": str(tmp_path), "file": f"{tmp_path}/a.jsonl"}.get(named, "a.jsonl")
    assert files.data_files(WHERE, [url]) == [url if named != "folder" else f"{tmp_path}/a.jsonl"]
    out = f"{tmp_path}/out"
    copied = tmp_path / "b.jsonl._COPYING_"  # as hdfs dfs -put names it
    copied.write_text("1\n")
    if named == "folder":
        for read in (partial(files.data_files, WHERE), partial(sharding._inputs, WHERE, out=out)):
            with pytest.raises(
                UserError, match=rf"^{WHERE}: .*b\.jsonl\._COPYING_ is being copied, or its copy was cut"
            ):
                read([url])
        copied.unlink()
    (tmp_path / "_unfinished.json").write_text("{}")
    for read in (partial(files.data_files, WHERE), partial(sharding._inputs, WHERE, out=out)):
        with pytest.raises(UserError, match="is not finished: cclm data shard"):
            read([url])
