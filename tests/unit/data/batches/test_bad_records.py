"""Broken records: counted by kind, named once with file and line, replaced, and too many of them stop training."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from record_files import b64, image_text, jpeg, pair, region, write_lines

from cclm.data.batches.loader import open_source
from cclm.data.examples.pretraining_examples import example_builder
from cclm.data.stored import records
from cclm.errors import UserError
from cclm.events import RecordSkipped

GOOD = image_text(1)
BAD_IMAGE_TEXT = {
    "not JSON": '{"binary": "abc", ',
    "wrong type": ["a", "list"],
    "missing key": {"caption": {"en": "a dog"}},
    "bad base64": {**GOOD, "binary": "@@@not base64@@@"},
    "broken image": {**GOOD, "binary": b64(jpeg(3)[:-300])},
    "empty caption": {**GOOD, "caption": {"en": " ... "}},
    "no caption in a language of the config": {**GOOD, "caption": {"xx": "a dog"}},
}
BAD_REGION = {
    "box outside the image": {**region(1), "elems": [{"bb": [40, 10, 30, 10], "caption": {"en": "a dog"}}]},
    "missing key": {**region(1), "elems": [{"bb": [1, 1, 10, 10]}]},
    "wrong type": {**region(1), "elems": [{"bb": [1, 1, "x", 10], "caption": {"en": "a dog"}}]},
    "no region and no caption": {"binary": GOOD["binary"], "elems": []},
    "empty caption": {**region(1), "elems": [{"bb": [1, 1, 10, 10], "caption": {"en": "!"}}]},
}
BAD_TEXT = {
    "missing key": {"source_text": "a dog"},
    "wrong type": {"source_text": "a dog", "target_text": 5},
    "empty text": {"source_text": "a dog", "target_text": "?"},
}


def _stream(make_config: Any, path: Path, kind: str, workers: int = 0, batch: int = 2, **source: Any) -> Any:
    block = dict(files=[str(path)], batch_size=batch, num_workers=workers, **source)
    if kind == "regions":
        block["max_images"] = batch
    return open_source(kind, make_config({kind: block}), rank=0, world_size=1)


@pytest.mark.parametrize(
    "kind, bad",
    [("images", bad) for bad in BAD_IMAGE_TEXT.items()]
    + [("regions", bad) for bad in BAD_REGION.items()]
    + [("texts", bad) for bad in BAD_TEXT.items()],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_each_is_counted_named_and_replaced(
    make_config: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, bad: tuple[str, Any]
) -> None:
    make = {"images": image_text, "regions": region, "texts": pair}[kind]
    lines = [make(i) for i in range(12)]
    lines[7:7] = ["", "  "]  # blank lines count as lines, not as records
    lines.insert(9, bad[1])
    path = write_lines(tmp_path / "part.jsonl", lines)
    stream = _stream(make_config, path, kind, **({"languages": ["en", "de"]} if kind != "texts" else {}))
    batches = stream.batches(0)
    with caplog.at_level(logging.WARNING, "cclm"):
        for _ in range(13):  # 26 places: two epochs of 13 records
            next(batches)
    assert stream.num_records == 13
    assert stream.skipped == {bad[0]: 2}
    named = [message for message in caplog.messages if f"part.jsonl:10: {bad[0]}" in message]
    assert len(named) == len(caplog.messages) == 1
    [event] = [getattr(record, "event", None) for record in caplog.records]  # so that it is counted without reading
    assert event == RecordSkipped(text=caplog.messages[0], kind=kind, reason=bad[0])


def test_workers_report_what_they_skip(make_config: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines: list[Any] = [pair(i) for i in range(16)]
    lines[3], lines[11] = "nonsense", {"source_text": 1, "target_text": ""}
    stream = _stream(make_config, write_lines(tmp_path / "p.jsonl", lines), "texts", workers=2, batch=4)
    batches = stream.batches(0)
    with caplog.at_level(logging.WARNING, "cclm"):
        for _ in range(4):
            next(batches)
    batches.close()
    assert stream.skipped == {"not JSON": 1, "wrong type": 1}
    assert sorted(message.split("p.jsonl:")[1].split(":")[0] for message in caplog.messages) == ["12", "4"]


def test_the_others_keep_their_places(make_config: Any, tmp_path: Path) -> None:
    lines: list[Any] = [pair(i) for i in range(24)]
    clean = _stream(make_config, write_lines(tmp_path / "a.jsonl", lines), "texts", batch=4)
    broken_lines = list(lines)
    for i in (5, 6, 17):
        text = json.dumps(lines[i])
        broken_lines[i] = "x" * len(text)  # the same size: the same chunks
    broken = _stream(make_config, write_lines(tmp_path / "b.jsonl", broken_lines), "texts", batch=4)
    different = 0
    for _, one, two in zip(range(6), clean.batches(0), broken.batches(0), strict=False):
        for row in range(4):
            length, other = int(one.source.lengths[row]), int(two.source.lengths[row])
            different += not torch.equal(one.source.data[row, :length], two.source.data[row, :other])
    assert different == 3 and broken.skipped == {"not JSON": 3}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_hundred_in_a_row_stop_training(make_config: Any, tmp_path: Path, workers: int) -> None:
    path = write_lines(tmp_path / "p.jsonl", [{"text": "the keys are others"}] * 30)
    stream = _stream(make_config, path, "texts", workers=workers)
    sentence = r"^data\.texts: 100 records in a row are broken, the last one at .*p\.jsonl:\d+ \(missing key: source"
    with pytest.raises(UserError, match=sentence):
        next(stream.batches(0))


def test_less_than_that_does_not(make_config: Any, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", ["nonsense"] * 60 + [pair(1)])
    stream = _stream(make_config, path, "texts", batch=1)
    batches = stream.batches(0)
    for _ in range(61):
        next(batches)
    assert stream.skipped == {"not JSON": 60}


def test_a_file_that_shrinks_stops_training(make_config: Any, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", [pair(i) for i in range(20)])
    stream = _stream(make_config, path, "texts")
    path.write_text("short\n")
    with pytest.raises(UserError, match="did the file change"):
        for _ in zip(range(10), stream.batches(0), strict=False):
            pass


def test_the_truncated_last_line_is_a_broken_record(make_config: Any, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("\r\n".join(json.dumps(pair(i)) for i in range(5))[:-9])
    stream = _stream(make_config, path, "texts", batch=1)
    batches = stream.batches(0)
    for _ in range(5):
        next(batches)
    assert stream.skipped == {"not JSON": 1}


@pytest.mark.parametrize("kind", ["images", "regions", "texts"])
def test_damaged_lines_are_broken_records_and_nothing_worse(make_config: Any, tokenizer: Any, kind: str) -> None:
    make = {"images": image_text, "regions": region, "texts": pair}[kind]
    block = dict(files=["x"], batch_size=8)
    build = example_builder(kind, make_config({kind: block}), tokenizer)
    rng, kinds = random.Random(8), Counter()
    for number in range(400):
        fields = make(number)
        if "binary" in fields and number % 2:  # damage inside the image
            data = bytearray(jpeg(number))
            for _ in range(3):
                data[rng.randrange(len(data))] = rng.randrange(256)
            line = json.dumps({**fields, "binary": b64(bytes(data))}).encode()
        elif number % 4 == 0:  # damage to a value
            line = json.dumps(_damaged(fields, rng)).encode()
        else:  # damage to bytes of the line
            data = bytearray(json.dumps(fields).encode())
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            line = bytes(data)
        try:
            undecoded = build(line, random.Random(number))
            assert (undecoded.decode is None) == (kind == "texts")
            if undecoded.decode is not None:
                undecoded.decode()
            kinds["good"] += 1
        except records.BrokenRecord as error:
            kinds[error.kind] += 1
    assert kinds["not JSON"] > 10 and kinds["wrong type"] > 10 and kinds["good"] > 10, kinds


def _damaged(value: Any, rng: random.Random) -> Any:
    """The same JSON with one value, at any depth, replaced by another type."""
    inner = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else [])
    if not inner or rng.random() < 0.2:
        return rng.choice([None, 5, -1e300, 10**400, float("nan"), True, "", "\ud800", [], {}, [[]], {"en": 5}])
    key, old = rng.choice(inner)
    copy = value.copy()
    copy[key] = _damaged(old, rng)
    return copy
