"""Counts of what training saw: the same however it is cut, a proof of each record once, a list of the broken ones."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from record_files import pair, write_lines

from cclm.config.sources import BrokenRecordsConfig
from cclm.data.batches.loader import open_source
from cclm.data.commands.audit_report import read_audit
from cclm.data.stored.audit import (
    AuditLine,
    EpochCount,
    Tally,
    add_tally,
    hash_of_all,
    mixed,
    tally_from_json,
)
from cclm.data.stored.quarantine import Quarantine, ReadCount, Skipped, refuse_too_many
from cclm.errors import UserError
from cclm.events import Journal
from cclm.metrics.sentences import Sentences
from cclm.training.run_audit import RunAudit

RECORDS = 50


def _source(make_config: Any, path: Path, rank: int = 0, world: int = 1, workers: int = 0, **more: Any) -> Any:
    config = make_config({"texts": dict(files=[str(path)], batch_size=8, num_workers=workers)})
    return open_source("texts", config, rank=rank, world_size=world, **more)


def _run(make_config: Any, path: Path, world: int, workers: int, start: int, count: int) -> Tally:
    total: Tally = {}
    for rank in range(world):
        source = _source(make_config, path, rank, world, workers)
        batches = source.batches(start)
        for _ in range(count):
            next(batches)
        batches.close()
        add_tally(total, source.tally)
    return total


@pytest.fixture
def broken_file(tmp_path: Path) -> Path:
    lines: list[Any] = [pair(i) for i in range(RECORDS)]
    lines[13], lines[31] = "nonsense", {"source_text": 1, "target_text": "a dog"}
    return write_lines(tmp_path / "p.jsonl", lines)


def test_counts_do_not_depend_on_processes_or_restarts(make_config: Any, broken_file: Path) -> None:
    whole = _run(make_config, broken_file, 1, 0, 0, 16)
    parts = _run(make_config, broken_file, 2, 1, 0, 7)
    add_tally(parts, _run(make_config, broken_file, 4, 0, 7, 9))
    assert parts == whole
    lines = [AuditLine("texts", epoch, RECORDS, count) for epoch, count in sorted(whole.items())]
    assert [line.each_once for line in lines] == [True, True, False]  # 128 places: two epochs and a part
    assert lines[0].count.skipped == {"not JSON": 1, "wrong type": 1} and lines[0].count.seen == RECORDS - 2
    assert lines[0].count.skipped_hash == (mixed(13) + mixed(31)) % 2**64


def test_an_audit_that_cannot_be_written_is_told_and_the_counts_are_saved(
    make_config: Any, broken_file: Path, tmp_path: Path
) -> None:
    """A full disk: the save that follows is what fails, or not."""
    source, said = _source(make_config, broken_file), []
    audit = RunAudit(tmp_path, {"texts": source}, None, Journal([Sentences(said.append)]))
    assert said == []
    (tmp_path / "audit.jsonl").unlink()
    (tmp_path / "audit.jsonl").mkdir()
    next(source.batches(0))
    assert audit.collect()["texts"]["0"]["seen"] == 8
    (text,) = said
    assert text.startswith(f"{tmp_path}/audit.jsonl could not be written (Is a directory); the next checkpoint")
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_record_seen_twice_or_missed_is_found() -> None:
    assert hash_of_all(1000) == sum(map(mixed, range(1000))) % 2**64
    numbers = list(range(1000))
    random.Random(1).shuffle(numbers)
    for change, verdict in ((None, "each once"), (7, "NOT each once"), (1000, "NOT each once")):
        count = EpochCount()
        for number in [*numbers[:-1], numbers[-1] if change is None else change]:
            count.see(number)
        assert AuditLine("images", 0, 1000, count).verdict == verdict


def test_resuming_counts_lost_steps_once(make_config: Any, broken_file: Path, tmp_path: Path) -> None:
    whole = _source(make_config, broken_file)
    audit = RunAudit(tmp_path / "whole", {"texts": whole}, None, Journal())
    batches = whole.batches(0)
    for _ in range(12):
        next(batches)
    audit.collect()

    first = _source(make_config, broken_file)
    audit = RunAudit(tmp_path / "parts", {"texts": first}, None, Journal())
    batches = first.batches(0)
    for _ in range(5):
        next(batches)
    saved = json.loads(json.dumps(audit.collect()))
    for _ in range(4):  # lost: no checkpoint follows
        next(batches)
    second = _source(make_config, broken_file, workers=1)
    audit = RunAudit(tmp_path / "parts", {"texts": second}, saved, Journal())
    assert read_audit(str(tmp_path / "parts"))["texts", 0].count.read == 40
    batches = second.batches(5)
    for _ in range(7):
        next(batches)
    state = audit.collect()
    batches.close()
    assert len(read_audit(str(tmp_path / "whole"))["texts", 0].data or "") == 16
    assert read_audit(str(tmp_path / "parts")) == read_audit(str(tmp_path / "whole"))
    assert tally_from_json(state["texts"])[0].read == RECORDS


def test_other_data_of_as_many_records_have_another_digest(make_config: Any, broken_file: Path, tmp_path: Path) -> None:
    def digest(name: str, content: bytes) -> str:
        path = tmp_path / name / "data.jsonl"
        path.parent.mkdir()
        path.write_bytes(content)
        return _source(make_config, path).data_digest

    content = broken_file.read_bytes()
    mine = _source(make_config, broken_file).data_digest
    assert digest("copy", content) == mine != digest("other", content.replace(b"nonsense", b"{}"))


def test_broken_records_are_listed_once_with_their_bytes(make_config: Any, broken_file: Path, tmp_path: Path) -> None:
    raw = broken_file.read_bytes()
    for _ in range(2):  # a run and its restart
        source = _source(make_config, broken_file, workers=2, quarantine=Quarantine(tmp_path, 3))
        batches = source.batches(0)
        for _ in range(14):
            next(batches)
        batches.close()
    listed = [json.loads(line) for line in (tmp_path / "quarantine-00003.jsonl").read_text().splitlines()]
    found = {raw[one["offset"] : one["offset"] + one["size"]]: (one["line"], one["kind"]) for one in listed}
    assert len(listed) == 2 and found == {
        b"nonsense\n": (14, "not JSON"),
        b'{"source_text": 1, "target_text": "a dog"}\n': (32, "wrong type"),
    }
    assert {one["path"] for one in listed} == {str(broken_file)} and all(one["reason"] for one in listed)


def test_a_broken_record_on_another_machine_is_not_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = Skipped("not JSON", "what it is", "s3://bucket/part", 7, 9, None, True)
    for _ in range(2):  # the folder is that of the first process, on its machine
        Quarantine(tmp_path / "not" / "here", 3).add("texts", record)
    listed = (tmp_path / "not" / "here" / "quarantine-00003.jsonl").read_text()
    assert json.loads(listed)["offset"] == 7
    (tmp_path / "file").write_text("")
    Quarantine(tmp_path / "file" / "below", 3).add("texts", record)
    said = caplog.messages[-1]
    assert "cannot be written (Not a directory)" in said and json.loads(said.partition(" was: ")[2]) == json.loads(
        listed
    )


def test_too_many_broken_records_stop_a_run() -> None:
    limits = BrokenRecordsConfig()
    start = ReadCount()
    for read, skipped in ((9_999, 5_000), (10_000, 10), (1_000_000, 1_000)):
        refuse_too_many("data.images", ReadCount(read, skipped), start, limits)
    said = r"data\.images: 11 of 10,000 records are broken, more than data\.broken"
    with pytest.raises(UserError, match=said):
        refuse_too_many("data.images", ReadCount(10_000, 11), start, limits)


def test_restarts_do_not_hide_broken_records(make_config: Any, broken_file: Path, tmp_path: Path) -> None:
    """A run that goes on every few steps reaches the rate as one that goes through."""
    limits = BrokenRecordsConfig(max_rate=0.03, min_records=40)
    state, refused = None, []
    for start in range(0, 12, 2):
        source = _source(make_config, broken_file)
        audit = RunAudit(tmp_path, {"texts": source}, state, Journal())
        for _ in zip(range(2), source.batches(start), strict=False):
            pass
        now, before = ReadCount(source.read, sum(source.skipped.values())), audit.earlier.get("texts", ReadCount())
        assert before.read == 8 * start
        try:
            refuse_too_many("data.texts", now, before, limits)
        except UserError as error:
            refused.append(str(error))
        state = json.loads(json.dumps(audit.collect()))
    assert refused and "2 of 64 records are broken" in refused[0], refused
    refuse_too_many("data.texts", ReadCount(40, 1), ReadCount(40, 30), limits)  # the files were mended
