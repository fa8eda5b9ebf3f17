"""`cclm data`: what a user types, sees, and gets as exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from record_files import pair, write_lines

from cclm.cli.main import run
from cclm.data.stored.audit import AuditLine, EpochCount, write_audit


def _audit(folder: Path, seen: list[int], skipped: list[int] = (), epoch: int = 0, data: str | None = "d1") -> str:
    count = EpochCount()
    for number in seen:
        count.see(number)
    for number in skipped:
        count.skip(number, "bad base64")
    folder.mkdir()
    write_audit(f"{folder}/audit.jsonl", [AuditLine("images", epoch, 6, count, data)])
    return str(folder)


def test_index_says_what_there_is_and_passes_over_what_is_fresh(tmp_path: Path, capsys: Any) -> None:
    for part in range(3):
        write_lines(tmp_path / "data" / f"{part}.jsonl", [pair(i) for i in range(5 * part)])
    assert run(["data", "index", f"{tmp_path}/data"]) == 0
    out = capsys.readouterr().out
    assert "3 files: 15 records" in out and f"{tmp_path}/data/0.jsonl holds no record" in out
    assert len(list((tmp_path / "data").glob("*.idx.json"))) == 3
    for records, total in ((7, 17), (2, 12)):
        write_lines(tmp_path / "data" / "1.jsonl", [pair(i) for i in range(records)])
        assert run(["data", "index", f"{tmp_path}/data"]) == 0
        out = capsys.readouterr().out
        assert f"3 files, 2 of them up to date: {total} records" in out
        assert f"warning: {tmp_path}/data/1.jsonl changed after it was indexed: " in out and f" {records} in " in out
    assert run(["data", "index", f"{tmp_path}/data", "--index-dir", f"{tmp_path}/elsewhere"]) == 0
    assert len(list((tmp_path / "elsewhere").iterdir())) == 6
    (tmp_path / "data" / "4.jsonl.gz").write_bytes(b"\x1f\x8b")
    capsys.readouterr()
    assert run(["data", "index", f"{tmp_path}/data"]) == 2
    err = capsys.readouterr().err
    assert f"convert it with: cclm data shard {tmp_path}/data {tmp_path}/data/shards" in err and err.count("\n") == 1


def test_audit_of_one_run_and_of_two(tmp_path: Path, capsys: Any) -> None:
    whole = _audit(tmp_path / "a", [3, 1, 0, 2, 5], [4])
    same = _audit(tmp_path / "b", [0, 1, 2, 3, 5], [4])
    assert run(["data", "audit", whole]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert row.split()[:5] == ["images", "0", "6", "5", "1"] and row.endswith("each once")
    earlier = _audit(tmp_path / "earlier", [0, 1, 2, 3, 5], [4], data=None)
    line = Path(earlier, "audit.jsonl").read_text()
    Path(earlier, "audit.jsonl").write_text(line.replace(', "data": null', ""))  # before there was a digest
    for other in (same, earlier):
        assert run(["data", "audit", whole, other]) == 0
        assert "equal: 1 epochs of sources, 5 records seen" in capsys.readouterr().out
    for other, said in (
        (_audit(tmp_path / "c", [0, 1, 2, 3, 3], [4]), "images, epoch 0: seen 5 and 5, skipped 1 and 1; not the same"),
        (_audit(tmp_path / "d", [0, 1, 2]), "seen 5 and 3, skipped 1 and 0"),
        (
            _audit(tmp_path / "f", [0, 1, 2, 3, 5], [4], data="d2"),
            "images, epoch 0: the files differ in their records or",
        ),
        (_audit(tmp_path / "e", [0, 1, 2], epoch=1), f"images, epoch 1: only in {tmp_path}/e"),
    ):
        assert run(["data", "audit", whole, other]) == 1
        assert said in capsys.readouterr().out
    assert run(["data", "audit", f"{tmp_path}/c"]) == 0
    assert "NOT each once" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, said",
    [
        (["index", "{}/none"], "cclm data index: {}/none does not exist"),
        (["index", "{}/*.jsonl"], "{}/*.jsonl does not exist; name the folder: patterns"),
        (
            ["index", "{}/bad.jsonl", "--index-dir", "{}/bad.jsonl"],
            "cclm data index: {}/bad.jsonl cannot be written (File",
        ),
        (["index", "{}/bad.jsonl", "--index-dir", "{}/bad.jsonl/x"], "{}/bad.jsonl/x cannot be written (Not a dir"),
        (["index", "/dev/null"], "/dev/null is a device or pipe, not a regular file"),
        (
            ["index", "{}/notes.md"],
            "{}/notes.md:2 is no JSON object, nor is any line after it, so the file is not line-JSON; name",
        ),
        (["index", "{}/whole.json"], "{}/whole.json:1 is no JSON object"),
        (["index", "{}/list.json"], "{}/list.json:1 is no JSON object"),
        (["index", "{}/notes.tar"], "{}/notes.tar is not a whole tar file"),
        (["audit", "{}"], "{}/audit.jsonl does not exist; pre-training and text assignment write it"),
        (["audit", "{}/bad.jsonl"], "{}/bad.jsonl:1 is not a line of an audit"),
        (["audit", "{}/binary.jsonl"], "{}/binary.jsonl:2 is not a line of an audit"),
        (["audit", "{}/kinds.jsonl"], "{}/kinds.jsonl:1 is not a line of an audit"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, capsys: Any, words: list[str], said: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"source": "images"}\n')
    line = AuditLine("images", 0, 6, EpochCount()).to_json()
    (tmp_path / "binary.jsonl").write_bytes(line.encode() + b"\n\xff\xfe\n")
    (tmp_path / "kinds.jsonl").write_text(line.replace('"skipped": {}', '"skipped": {"a": "x"}'))
    (tmp_path / "notes.md").write_text("\nThis is prose.\n")
    (tmp_path / "notes.tar").write_text("This is prose.\n")
    (tmp_path / "whole.json").write_text('{\n"caption": "a"\n}\n')
    (tmp_path / "list.json").write_text('["caption"]\n')
    assert run(["data", *(word.format(tmp_path) for word in words)]) == 2
    assert not list(tmp_path.glob("*.idx*"))
    err = capsys.readouterr().err
    assert said.format(tmp_path) in err and err.count("\n") == 1 and "Traceback" not in err
