"""What `cclm status` says of files that are cut or damaged, or hold nothing yet."""

import json
from pathlib import Path

import pytest

from tests.unit.cli.test_status import LINE, put, shown, written


def test_damaged_files_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = json.dumps(LINE)
    folder = put(tmp_path / "run", written(), lines=f"{whole[:40]}\n{whole}\n{whole[:50]}")  # the last: being written
    (folder / "launch-pretrain.json").write_text("[]")
    assert shown(capsys, folder).splitlines()[-2:] == [
        "launch-pretrain.json is cut or damaged: it holds no JSON object; left out",
        "metrics.jsonl has 1 line that is no JSON object with a step; left out",
    ]
    padding = "".join(json.dumps({**LINE, "step": step}) + "\n" for step in range(2000))
    put(folder, lines=padding)  # of which only the end is read
    assert "metrics.jsonl" not in shown(capsys, folder)


def test_a_folder_that_says_nothing_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = put(tmp_path / "run")
    (folder / "metrics.jsonl").touch()
    assert shown(capsys, folder).splitlines() == [
        f"{folder}: unknown",
        "nothing here says how the run is: no status.json that can be read, no line in metrics.jsonl and no checkpoint",
    ]


def test_a_loss_that_is_not_a_number_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is what somebody looks for who sees a run diverge."""
    losses = {"images/loss_itc": float("nan"), "images/loss_mlm": 1.0}
    folder = put(tmp_path / "run", written(losses=losses))
    assert "  losses      images: itc nan  mlm 1.000" in shown(capsys, folder).splitlines()
    found = json.loads(shown(capsys, folder, "--json"))
    assert found["losses"] == {"images/loss_itc": None, "images/loss_mlm": 1.0}
