"""Re-sharding: every record once and in order, through every pair of formats; whole, or not at all."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import itertools
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from record_files import image_text, jpeg, pair, write_lines

from cclm import storage
from cclm.cli.main import run
from cclm.data.commands import sharding
from cclm.data.stored.formats import Format
from cclm.data.stored.index import open_indexes
from cclm.data.stored.records import parse_image_text
from cclm.data.stored.tar import END_MARK, members_of_record, record_starts, write_member

RECORDS = [{**image_text(i), "id": i} for i in range(30)]


def _shard(*words: object) -> int:
    return run(["data", "shard", *map(str, words)])


def _contents(folder: Path, source: Any) -> list[tuple[bytes, Any]]:
    found = []
    for index in open_indexes("k", [str(folder)]):
        for i in range(index.num_records):
            data = storage.read_range(index.url, *index.byte_range(i, i + 1))
            record = parse_image_text(data, source, index.format)
            found.append((record.image, record.captions))
    return found


@pytest.fixture
def source() -> Any:
    from cclm.config.sources import ImageTextSource

    return ImageTextSource(files=("x",), batch_size=1)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    for part in range(3):
        write_lines(tmp_path / "lines" / f"{part}.jsonl", RECORDS[part * 10 : part * 10 + 10])
    return tmp_path / "lines"


def test_there_and_back_again(tmp_path: Path, lines: Path, source: Any, capsys: Any) -> None:
    expected = _contents(lines, source)
    assert [image for image, _ in expected] == [jpeg(i) for i in range(30)]
    compressed = tmp_path / "compressed"
    compressed.mkdir()
    for part, opens in enumerate((gzip.compress, bz2.compress, lambda data: data)):
        ending = ("jsonl.gz", "jsonl.bz2", "jsonl")[part]
        (compressed / f"{part}.{ending}").write_bytes(opens((lines / f"{part}.jsonl").read_bytes()))
    assert _shard(compressed, tmp_path / "tar", "--size", "8K") == 0
    assert "30 records in" in capsys.readouterr().out
    shards = sorted((tmp_path / "tar").glob("*.tar"))
    assert len(shards) > 3 and not list((tmp_path / "tar").glob("_*"))
    assert _contents(tmp_path / "tar", source) == expected
    with tarfile.open(shards[0]) as archive:  # a plain tar for anyone
        assert json.load(archive.extractfile(archive.getnames()[1]))["id"] == 0
    for steps in (["tar", "tar2", "--size", "30K"], ["tar2", "lines2", "--format", "lines", "--size", "20K"]):
        assert _shard(tmp_path / steps[0], tmp_path / steps[1], *steps[2:]) == 0
        assert _contents(tmp_path / steps[1], source) == expected
    raw = b"".join(path.read_bytes() for path in sorted((tmp_path / "lines2").glob("*.jsonl")))
    assert [json.loads(line) for line in raw.splitlines()] == RECORDS


def test_compressed_tars_and_records_without_images(tmp_path: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for i in range(5):
            text = json.dumps(pair(i)).encode()
            info = tarfile.TarInfo(f"some/{i:03d}.json")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    (tmp_path / "a.tar.gz").write_bytes(data.getvalue())
    assert _shard(tmp_path / "a.tar.gz", tmp_path / "out", "--format", "lines") == 0
    [shard] = (tmp_path / "out").glob("*.jsonl")
    assert [json.loads(line) for line in shard.read_text().splitlines()] == [pair(i) for i in range(5)]
    assert _shard(tmp_path / "out", tmp_path / "tars") == 0
    assert open_indexes("k", [str(tmp_path / "tars")])[0].num_records == 5


def test_records_of_several_tars_keep_apart(tmp_path: Path, capsys: Any) -> None:
    """Keys that are equal where two files meet would make one record of two, for us and for WebDataset."""
    for name, keys in (("0", "ab"), ("1", "ba"), ("2", "a"), ("3", "aa")):
        members = [(f"{key}.{kind}", f"{name}{key}".encode()) for key in keys for kind in ("txt", "json")]
        data = b"".join(write_member(*member) for member in members)
        (tmp_path / f"{name}.tar").write_bytes(data + END_MARK)
    assert _shard(*(tmp_path / f"{name}.tar" for name in "012"), tmp_path / "out") == 0
    [shard] = (tmp_path / "out").glob("*.tar")
    again = record_starts(lambda start, end: shard.read_bytes()[start:end], shard.stat().st_size)
    [index] = open_indexes("k", [str(tmp_path / "out")])
    assert index.offsets(0, 5) == again
    found = [members_of_record(shard.read_bytes()[start:end]) for start, end in itertools.pairwise(again)]
    assert (
        [record["txt"] for record in found]
        == [record["json"] for record in found]
        == [b"0a", b"0b", b"1b", b"1a", b"2a"]
    )
    capsys.readouterr()
    for form in ("tar", "lines"):
        assert _shard(tmp_path / "3.tar", tmp_path / form, "--format", form) == 2
        assert "3.tar, a is broken (broken tar members: two neighbouring" in capsys.readouterr().err


def test_damage_and_full_folders_leave_nothing(tmp_path: Path, lines: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    whole = gzip.compress((lines / "0.jsonl").read_bytes())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    damaged = bz2.compress((lines / "0.jsonl").read_bytes())
    (tmp_path / "rot.jsonl.bz2").write_bytes(damaged[:20] + bytes(20) + damaged[40:])
    (tmp_path / "bad.jsonl").write_text((lines / "0.jsonl").read_text() + "nonsense\n")
    for words, said in (
        ([tmp_path / "cut.jsonl.gz", out, "--size", "4K"], "cut.jsonl.gz is damaged or cut off"),
        ([tmp_path / "rot.jsonl.bz2", out], "rot.jsonl.bz2 is damaged"),
        ([lines, tmp_path / "bad.jsonl", out], "bad.jsonl:11 is broken (not JSON"),
        ([tmp_path / "none", out], "none does not exist"),
        ([lines, lines], "is input and output"),
        ([tmp_path / "bad.jsonl", lines], "is not empty (0.jsonl)"),
        ([tmp_path / "bad.jsonl", f"{tmp_path}/new/../lines"], "is not empty (0.jsonl)"),
        ([lines, f"{tmp_path}/new/../lines"], "is input and output"),
    ):
        assert _shard(*words) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1, err
        assert not out.exists() or not list(out.iterdir())
    assert _shard(tmp_path / "bad.jsonl", out, "--skip-broken") == 0
    assert "10 records" in (printed := capsys.readouterr().out) and "left out 1 broken records" in printed


def test_what_cannot_be_written_is_named_by_file_and_line(tmp_path: Path, capsys: Any) -> None:
    good = {"binary": base64.b64encode(jpeg(0)).decode(), "caption": "a dog"}
    for name, change, said in (
        ("image", {"binary": "AAAA"}, "broken image: the data are not an image of a format that a tar may hold (jpg, "),
        ("number", {"elems": [{"id": 2**64}]}, "wrong type: a number of over 64 bits, about 1.84467e+19"),
    ):
        data = write_lines(tmp_path / f"{name}.jsonl", [{**good, "id": 2**63 - 1}, {**good, **change}])
        assert _shard(data, tmp_path / name, "--size", "1") == 2
        assert f"cclm data shard: {data}:2 is broken ({said}" in capsys.readouterr().err
        assert _shard(data, tmp_path / name, "--size", "1", "--skip-broken") == 0
        assert f"left out: {data}:2: {said}" in (out := capsys.readouterr().out) and "1 records in 1 shards" in out


@pytest.mark.parametrize("form", ["TIFF", "JPEG2000", "PPM"])
def test_images_of_rarer_formats_come_back_from_tars(tmp_path: Path, form: str) -> None:
    file = io.BytesIO()
    Image.new("L", (8, 8), 7).save(file, form)
    line = {"binary": base64.b64encode(file.getvalue()).decode(), "caption": "a dog"}
    data = write_lines(tmp_path / "a.jsonl", [line])
    assert _shard(data, tmp_path / "tars") == 0
    assert _shard(tmp_path / "tars", tmp_path / "lines", "--format", "lines") == 0
    [shard] = (tmp_path / "lines").glob("*.jsonl")
    assert json.loads(shard.read_text()) == line


def test_members_without_a_place_in_a_line_are_counted(tmp_path: Path, capsys: Any) -> None:
    members = [(f"{key}.{kind}", b"{}") for key in "ab" for kind in ("json", "cls", "seg.npy", "txt")]
    (tmp_path / "0.tar").write_bytes(b"".join(write_member(*member) for member in members) + END_MARK)
    assert _shard(tmp_path / "0.tar", tmp_path / "lines", "--format", "lines") == 0
    said = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert said == ["left out: 2 members .cls", "left out: 2 members .seg.npy"]
    assert _shard(tmp_path / "0.tar", tmp_path / "tars") == 0
    assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize("form", ["tar", "lines"])
def test_two_pictures_named_by_dates_are_not_written_as_one_record(tmp_path: Path, capsys: Any, form: str) -> None:
    names = [f"IMG_2021.03.0{day}.{extension}" for day in (4, 5) for extension in ("jpg", "json")]
    (tmp_path / "a.tar").write_bytes(b"".join(write_member(name, b"{}") for name in names) + END_MARK)
    assert _shard(tmp_path / "a.tar", tmp_path / "out", "--format", form) == 2
    assert "there are 2 images: .03.04.jpg .03.05.jpg; the key of a record ends" in capsys.readouterr().err


def test_a_command_that_was_cut_off_starts_over(
    tmp_path: Path, lines: Path, source: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out, published = tmp_path / "out", sharding._ShardWriter.publish

    def dies(self: Any, folder: str, group: int, number: int, format: Format) -> Any:
        if number == 2:
            raise SystemExit(9)  # as good as SIGKILL, since nothing is cleaned up after it:
        return published(self, folder, group, number, format)

    monkeypatch.setattr(sharding._ShardWriter, "publish", dies)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(sharding, "_remove_ours", lambda out: None)
        _shard(lines, out, "--size", "4K")
    assert len(list(out.glob("*.tar"))) == 2
    assert run(["data", "index", str(out)]) == 2
    assert "is not finished" in capsys.readouterr().err
    monkeypatch.undo()
    assert _shard(lines, out, "--size", "20K") == 0
    assert len(_contents(out, source)) == 30


def test_two_commands_into_one_folder_do_not_make_one_set(
    tmp_path: Path, lines: Path, capsys: Any, monkeypatch: Any
) -> None:
    """The second takes the first for one that was cut off. The first must not call what is left of its shards whole."""
    out = tmp_path / "out"
    write = sharding._write_group

    def write_and_be_overtaken(*args: Any) -> Any:
        done = write(*args)
        sharding._claim("cclm data shard", str(out))
        return done

    monkeypatch.setattr(sharding, "_write_group", write_and_be_overtaken)
    assert _shard(lines, out) == 2
    assert "another command began to write" in capsys.readouterr().err
    assert (out / "_unfinished.json").exists()
