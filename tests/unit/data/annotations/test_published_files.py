"""What the files of benchmarks really hold: answers that their answer list lacks, images that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from record_files import b64, jpeg

from cclm.cli.main import run
from cclm.config.files import load_config
from cclm.data.annotations.annotation_sets import ImageRef
from cclm.data.annotations.gqa import read_questions
from cclm.data.annotations.lists import read_retrieval_list
from cclm.data.annotations.read import read_evaluation, read_training
from cclm.data.annotations.wit import read_wit
from cclm.data.batches.evaluation_batches import evaluation_images
from cclm.data.examples.unreadable import UNREADABLE_IMAGE, leave_out_unreadable
from cclm.errors import UserError
from cclm.metrics.measured import accuracy
from cclm.tasks.entry_evaluation import EntryPrediction, _measured
from cclm.training.task_tests import remarks

ROOT = Path(__file__).parents[4]


def _write(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def _questions(*answers: str) -> list[dict[str, Any]]:
    return [
        {"img_id": "1", "question_id": str(i), "sent": "What is it?", "label": {answer: 1.0}}
        for i, answer in enumerate(answers)
    ]


def test_a_test_question_whose_answer_is_not_listed_stays_and_is_counted(tmp_path: Path, capsys: Any) -> None:
    """GQA's published answer list lacks `bottle cap`, the answer of two questions of testdev and of xGQA's tests."""
    listed = _write(tmp_path / "datasets/gqa/annotations/trainval_ans2label.json", {"yes": 0, "no": 1})
    test = _write(
        tmp_path / "datasets/gqa/annotations/testdev.json", _questions("yes", "bottle cap", "no", "bottle cap")
    )
    train = _write(tmp_path / "datasets/gqa/annotations/train.json", _questions("yes", "no"))
    values = [f"data.train_files=[{train}]", f"data.validation_files={{en: [{test}]}}",
              f"data.test_files={{en: [{test}]}}", f"data.answer_list={listed}"]  # fmt: skip
    config = load_config(ROOT / "configs/demo/gqa.yaml", values)
    for split in ("validation", "test"):
        found = read_evaluation(config, split, "en")
        assert len(found) == 4 and [entry.question_id for entry in found.unlisted()] == [1, 3]
        assert remarks({"en": found}) == (
            "en: 2 of 4 count as wrong, their answer is not in data.answer_list ('bottle cap')"
        )
    measured = _measured(found, {i: EntryPrediction("en", i, 0, 1.0) for i in range(4)}, ("yes", "no"))
    assert measured.metrics == accuracy(1, 4)  # over all four
    kept = found.without_images({ImageRef("other.jpg")}, "missing image")
    assert len(kept) == 4 and kept.remarks() == found.remarks()
    assert remarks({"all": read_training(config)}) == ""
    with pytest.raises(UserError, match="entry 1: the answer 'bottle cap' is not among the 2 of data.answer_list"):
        read_training(load_config(ROOT / "configs/demo/gqa.yaml", [*values[1:], f"data.train_files=[{test}]"]))
    with pytest.raises(UserError, match="not among the 2"):
        read_questions([test], "", ["yes", "no"])
    assert run(["data", "check", "--iglue", str(tmp_path)]) == 0
    assert "NOT readable" not in (out := capsys.readouterr().out) and "testdev  " in out


def test_a_web_page_among_wit_s_images_is_named_or_left_out(tmp_path: Path) -> None:
    """The message names the URL and the line, not a table of gigabytes; under skip, broken images are counted."""
    contents = {"a": jpeg(1), "page": b"<!DOCTYPE html><html>404</html>", "half": jpeg(2)[:-200], "b": jpeg(3)}
    rows = [f"http://x/{name}\t{b64(content)}\n" for name, content in contents.items()]
    (tmp_path / "table.csv").write_text("".join([*rows, "http://x/damaged\t*not base64*\n"]))
    names = ["a", "page", "page", "half", "damaged", "b"]
    lines = [{"image_url": f"http://x/{name}", "caption_reference_description": "a dog"} for name in names]
    lines += [{**lines[0], "image_url": "http://x/inside", "image_content": b64(b"<html>")}]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_wit([str(path)], [str(tmp_path / "table.csv")])
    assert leave_out_unreadable(found, "error") is found
    for number, name in ((1, "page"), (2, "half"), (3, "damaged"), (5, "inside")):
        with pytest.raises(UserError) as caught:
            list(evaluation_images([found.images[number]], 32, 1))
        line = names.index(name) + 1 if name in names else 7
        said = f"{path}:{line}: the image http://x/{name} cannot be read: "
        assert str(caught.value).startswith(said) and "--missing-images skip" in str(caught.value)
    kept = leave_out_unreadable(found, "skip")
    assert [image.read() for image in kept.images] == [jpeg(1), jpeg(3)] and kept.image_of_text == [0, 1]
    assert kept.dropped == {UNREADABLE_IMAGE: 4} and "left out 4 for unreadable image" in remarks({"en": kept})
    assert len(list(evaluation_images(kept.images, 32, 2))) == 1
    parts = []  # two processes look through half of the images each, and leave out what either has found
    for rank in range(2):
        leave_out_unreadable(found, "skip", rank=rank, world_size=2, gather=lambda mine: parts.append(mine) or [mine])
    assert [len(part) for part in parts] == [1, 3] and not parts[0].keys() & parts[1].keys()
    shared = leave_out_unreadable(found, "skip", rank=1, world_size=2, gather=lambda mine: [parts[0], mine])
    assert shared.images == kept.images and shared.dropped == kept.dropped
    with pytest.raises(UserError, match=r"http://x/page cannot be read: .*, nor can any other of 1"):
        leave_out_unreadable(found.without_images({*found.images} - {found.images[1]}, "test"), "skip")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    plain = read_retrieval_list(_write(tmp_path / "l.json", [{"image": "broken.jpg", "caption": "a"}]), str(tmp_path))
    assert leave_out_unreadable(plain, "skip") is plain
