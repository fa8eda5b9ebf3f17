"""The last words of a container."""

import json
from pathlib import Path

import pytest

from cclm.cli.main import run
from cclm.events import Ended, Notice
from cclm.launch.termination_log import PATH_VARIABLE, TerminationLog

KILLED = Ended(137, "KILLED", "rank 1 was killed\nby SIGKILL", may_retry=True)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination-log"
    path.touch()
    monkeypatch.setenv(PATH_VARIABLE, str(path))
    return path


def test_the_sentence_comes_first(log: Path) -> None:
    TerminationLog().handle(Notice("something else"))
    assert log.read_text() == ""
    TerminationLog().handle(KILLED)
    sentence, facts = log.read_text().splitlines()
    assert sentence == "rank 1 was killed by SIGKILL"
    assert json.loads(facts) == {"exit_code": 137, "cause": "killed", "may_retry": True}


def test_it_fits_into_what_kubernetes_keeps(log: Path) -> None:
    TerminationLog().handle(Ended(1, "BUG", "ä" * 5000, may_retry=False))
    content = log.read_bytes()
    sentence, facts = content.decode().splitlines()
    assert 4090 < len(content) <= 4096 and sentence.endswith("ä...") and json.loads(facts)["exit_code"] == 1


def test_success_and_other_machines_get_none(log: Path) -> None:
    TerminationLog().handle(Ended(0, None, "", may_retry=False))
    assert log.read_text() == ""
    log.unlink()
    TerminationLog().handle(KILLED)
    assert not log.exists()


def test_after_success_it_says_how_far_training_came_and_how_often_it_was_started_again(log: Path) -> None:
    TerminationLog().handle(
        Ended(0, None, "", may_retry=False, progress={"step": 200.0, "image/itc": 1.5}, restarts={"killed": 2})
    )
    facts = json.loads(log.read_text())
    assert facts["progress"] == {"step": 200.0, "image/itc": 1.5} and facts["restarts"] == {"killed": 2}


def test_mistakes_before_anything_starts_are_in_it_too(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["launch", "--", "pretrain", "none.yaml"]) == 2
    error = capsys.readouterr().err.strip().removeprefix("cclm: error: ")
    sentence, facts = log.read_text().splitlines()
    assert sentence == error and "none.yaml" in sentence
    assert json.loads(facts) == {"exit_code": 2, "cause": "user_error", "may_retry": False}
