"""`cclm data check`: counts what there is, and finds all that is wrong at one look."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from record_files import b64, image_text, jpeg, pair, write_lines

from cclm.cli.main import run


@pytest.fixture
def config(tmp_path: Path, tokenizer_folder: str) -> dict[str, Any]:
    """Two sources and a held-out list."""
    write_lines(tmp_path / "images" / "0.jsonl", [image_text(i) for i in range(20)])
    write_lines(
        tmp_path / "images" / "1.jsonl", [{"binary": b64(jpeg(i)), "caption": {"en": "a dog"}} for i in range(20)]
    )
    write_lines(tmp_path / "texts.jsonl", [pair(i) for i in range(30)])
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        (tmp_path / "pictures" / f"{i}.jpg").write_bytes(jpeg(i))
    held_out = [{"image": f"{i}.jpg", "caption": ["a dog", "a cat"], "image_id": i} for i in range(3)]
    (tmp_path / "held_out.json").write_text(json.dumps(held_out))
    vision = dict(image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[1, 2], window_size=4)
    text = dict(vocab_size=200, hidden_size=32, num_heads=2, intermediate_size=64, num_layers=2, num_text_layers=1)
    return {
        "task": "pretrain",
        "model": {"vision": vision, "text": {**text, "tokenizer": tokenizer_folder, "max_positions": 160}},
        "data": {
            "images": {"files": [f"{tmp_path}/images"], "batch_size": 8},
            "texts": {"files": [f"{tmp_path}/texts.jsonl"], "batch_size": 8},
        },
        "evaluation": {"files": {"en": f"{tmp_path}/held_out.json"}, "image_root": f"{tmp_path}/pictures"},
    }


def _check(tmp_path: Path, config: dict[str, Any], *words: str) -> int:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return run(["data", "check", f"{tmp_path}/config.yaml", *words])


def _row(out: str, name: str) -> list[str]:
    return next(line for line in out.splitlines() if line.startswith(name)).split()


def test_fewer_records_than_a_batch_are_noted(tmp_path: Path, config: dict[str, Any], capsys: Any) -> None:
    config["data"]["images"]["batch_size"] = 48
    assert _check(tmp_path, config) == 0
    out = capsys.readouterr().out
    assert "fewer than a batch of 48" in " ".join(_row(out, "data.images"))
    assert "fewer" not in " ".join(_row(out, "data.texts"))


def test_a_config_that_can_be_started(tmp_path: Path, config: dict[str, Any], capsys: Any) -> None:
    assert _check(tmp_path, config, "--processes", "4") == 0
    out = capsys.readouterr().out
    assert _row(out, "data.images") == [
        "data.images",
        "training",
        "2",
        "40",
        "0",
        "40",
        "0",
        "captions:",
        "en,",
        "de",
        "50%",
    ]
    assert _row(out, "data.texts")[2:6] == ["1", "30", "0", "30"]
    assert _row(out, "evaluation")[3:] == ["en", "1", "6", "0", "3", "0", "3", "images"]


def test_everything_wrong_is_told_at_once(tmp_path: Path, config: dict[str, Any], capsys: Any) -> None:
    lines = (tmp_path / "images" / "1.jsonl").read_text().splitlines()
    lines[4], lines[9] = "nonsense", json.dumps({"binary": b64(jpeg(3)[:-300]), "caption": {"en": "a dog"}})
    (tmp_path / "images" / "1.jsonl").write_text("\n".join(lines))
    (tmp_path / "texts.jsonl").unlink()
    (tmp_path / "pictures" / "1.jpg").unlink()
    (tmp_path / "pictures" / "2.jpg").write_bytes(b"no picture")
    config["model"]["weights"] = f"{tmp_path}/none.th"
    assert _check(tmp_path, config, "--processes", "3", "--all") == 2
    captured = capsys.readouterr()
    problems = [line for line in captured.out.splitlines() if line.startswith("problem: ")]
    for said in (
        "data.texts.batch_size = 8 cannot be shared by 3 processes",
        f"model.weights: {tmp_path}/none.th does not exist",
        "5.00% of the records are broken",
        "images/1.jsonl:5: not JSON",
        f"data.texts: {tmp_path}/texts.jsonl does not exist",
        "held_out.json, entry 1: the image",
    ):
        assert sum(said in problem for problem in problems) == 1, said
    assert len(problems) == 5 and "1 broken image, 1 not JSON" in captured.out and "Traceback" not in captured.err


def test_a_file_of_which_nothing_can_be_used_is_told(
    tmp_path: Path, config: dict[str, Any], monkeypatch: Any, capsys: Any
) -> None:
    """A small sample of many records may miss it; a hundred of its records in a row would end training."""
    monkeypatch.setattr("cclm.cli.data._SAMPLE_SIZE", 5)
    for part in range(3):
        write_lines(tmp_path / "many" / f"{part}.jsonl", [pair(i) for i in range(500)])
    write_lines(tmp_path / "many" / "0-of-another-kind.jsonl", [{"src": "a dog", "tgt": "ein Hund"}] * 120)
    late = tmp_path / "many" / "2.jsonl"  # broken at its beginning only
    late.write_text("nonsense\n" * 4 + late.read_text())
    config["data"]["texts"]["files"] = [f"{tmp_path}/many"]
    assert _check(tmp_path, config) == 2
    out = capsys.readouterr().out
    [problem] = [line for line in out.splitlines() if line.startswith("problem: ")]
    name = f"{tmp_path}/many/0-of-another-kind.jsonl"
    assert problem.startswith(
        f"problem: data.texts training: all 22 records looked at in {name} are broken: {name}:1: missing key"
    )
    assert "source_text is not there; correct the keys in the config, mend the files, or leave them out" in problem
    (tmp_path / "many" / "0-of-another-kind.jsonl").unlink()
    assert _check(tmp_path, config) == 0
    assert "3 not JSON" in (out := capsys.readouterr().out) and "2.jsonl:1: not JSON" in out
    tuning = {"task": "text_assignment", "model": config["model"], "data": {"images": config["data"]["images"]}}
    assert _check(tmp_path, tuning) == 0
    tuning["data"]["images"]["caption_key"] = "desc"
    assert _check(tmp_path, tuning) == 2
    assert "and so in 1 more files: " in (out := capsys.readouterr().out) and "missing key: desc is not there" in out


def test_a_caption_cut_into_words_is_shown_for_what_it_is_taken(
    tmp_path: Path, config: dict[str, Any], capsys: Any
) -> None:
    captions = [
        ["a", "red", "dog", "on", "grass"],
        {"en": ["a dog", "cats"], "zh": ["一只狗", "一只猫"]},
        ["ein", "Hund"],
    ]
    lines = [{"binary": b64(jpeg(i)), "caption": caption} for i, caption in enumerate(captions)]
    write_lines(tmp_path / "images" / "0.jsonl", lines)
    (tmp_path / "images" / "1.jsonl").unlink()
    assert _check(tmp_path, config) == 0
    out = capsys.readouterr().out
    assert "2 caption lists of single words, each taken for a caption of its own" in out
    assert "0.jsonl:1: a, red, dog, on, ...); join them" in out


def test_boxes_cut_into_words_and_languages_without_text(tmp_path: Path, config: dict[str, Any], capsys: Any) -> None:
    words = {"bb": [0, 0, 9, 9], "caption": ["red", "circle"], "attributes": ["big", "small"]}
    whole = {"en": "a dog", "de": None, "fr": []}
    lines = [{"binary": b64(jpeg(i)), "caption": whole, "elems": [words]} for i in range(2)]
    write_lines(tmp_path / "regions.jsonl", lines)
    config["data"]["regions"] = {"files": [f"{tmp_path}/regions.jsonl"], "batch_size": 2}
    assert _check(tmp_path, config) == 0
    out = capsys.readouterr().out
    assert "2 caption lists of single words" in out and "regions.jsonl:1: red, circle); join them" in out
    assert next(line for line in out.splitlines() if "single words" in line).count("captions: en;") == 1


def test_few_shot_fine_tuning(tmp_path: Path, config: dict[str, Any], capsys: Any) -> None:
    lines = [
        {"Flikr30kID": str(i % 3), "gold_label": ("entailment", "neutral", "-")[i % 3], "sentence2": "a dog"}
        for i in range(9)
    ]
    for name in ("train_3", "test"):
        write_lines(tmp_path / "xvnli" / "ar" / f"{name}.jsonl", lines)
    data = {
        "train_files": [f"{tmp_path}/xvnli/{{language}}/train_{{shots}}.jsonl"],
        "validation_files": {"{language}": [f"{tmp_path}/xvnli/{{language}}/test.jsonl"]},
        "image_root": f"{tmp_path}/pictures",
    }
    tuning = {"task": "classification", "model": config["model"], "data": data, "training": {"batch_size": 6}}
    assert _check(tmp_path, tuning, "--fewshot", "ar,3") == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()[1:]]
    assert [row[:6] for row in rows] == [
        ["classification", split, "ar", "1", "6", "3"] for split in ("training", "validation")
    ]
    (tmp_path / "pictures" / "1.jpg").unlink()
    assert _check(tmp_path, tuning, "--fewshot", "ar,3", "--processes", "4") == 2
    out = capsys.readouterr().out
    assert "training.batch_size = 6 cannot be shared by 4" in out and "train_3.jsonl:2: the image" in out


def test_an_iglue_tree(tmp_path: Path, capsys: Any) -> None:
    sample = Path(__file__).parents[3] / "data" / "iglue"
    shutil.copytree(sample, tmp_path / "iglue")
    (tmp_path / "iglue/gqa/annotations/trainval_label2ans.json").write_text('["yes", "no"]')
    assert run(["data", "check", "--iglue", str(tmp_path / "iglue")]) == 0
    out = capsys.readouterr().out
    assert {line.split()[0] for line in out.splitlines()[1:]} == {*(path.name for path in sample.iterdir())} - {
        "LICENSE"
    }
    assert "not read" not in out
    added = tmp_path / "iglue" / "XVNLI" / "annotations" / "sw" / "test.jsonl"
    write_lines(added, [{"Flikr30kID": "1", "gold_label": "maybe", "sentence2": "a dog"}])
    assert run(["data", "check", "--iglue", str(tmp_path / "iglue")]) == 2
    out = capsys.readouterr().out
    assert any(line.startswith("XVNLI  ") and "sw NOT readable" in line for line in out.splitlines())
    assert "sw/test.jsonl:1" in out
    assert run(["data", "check", "--iglue", str(tmp_path / "iglue" / "gqa")]) == 2
    assert "is not an IGLUE tree" in capsys.readouterr().err


def test_what_to_check_must_be_said(capsys: Any) -> None:
    assert run(["data", "check"]) == 2
    assert "takes a config, or --iglue DIR" in capsys.readouterr().err
