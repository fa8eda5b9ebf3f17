"""What the files of benchmarks really hold: answers that their answer list lacks, images that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cclm.cli.main import run
from cclm.config.files import load_config
from cclm.data.annotations.gqa import read_questions
from cclm.data.annotations.read import read_evaluation, read_training
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
    kept = found.without_images({"other.jpg"})
    assert len(kept) == 4 and kept.remarks() == found.remarks()
    assert remarks({"all": read_training(config)}) == ""
    with pytest.raises(UserError, match="entry 1: the answer 'bottle cap' is not among the 2 of data.answer_list"):
        read_training(load_config(ROOT / "configs/demo/gqa.yaml", [*values[1:], f"data.train_files=[{test}]"]))
    with pytest.raises(UserError, match="not among the 2"):
        read_questions([test], "", ["yes", "no"])
    assert run(["data", "check", "--iglue", str(tmp_path)]) == 0
    assert "NOT readable" not in (out := capsys.readouterr().out) and "testdev  " in out
