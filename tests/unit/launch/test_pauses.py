"""Pauses between tries grow with the starts that got no further."""

import json
import time
from pathlib import Path

import pytest

from cclm.events import Event, Journal, Notice
from cclm.launch.attempts import Attempts
from cclm.launch.pauses import Pauses, pause_seconds


def test_they_double_up_to_a_bound() -> None:
    assert [pause_seconds(starts) for starts in range(7)] == [0, 0, 10, 20, 40, 80, 160]
    assert pause_seconds(100) == 300


class Recorder(list[Event]):
    """A sink that keeps the events."""

    def handle(self, event: Event) -> None:
        self.append(event)


@pytest.mark.parametrize(
    ("starts", "shortest", "longest"),
    [(0, 0, 0), (1, 0, 0), (2, 8, 12), (4, 32, 48), (5, 0, 0)],  # of 5 allowed ones none is left to wait for
)
def test_starts_are_those_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: int, shortest: float, longest: float
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    recorder = Recorder()
    count = {"run_id": "job", "step": 0, "attempts": starts}
    (tmp_path / "attempts-pretrain.json").write_text(json.dumps(count))
    Pauses(Journal([recorder])).before_start(Attempts([str(tmp_path)], "pretrain", "job", 5))
    assert sum(slept) == pytest.approx((shortest + longest) / 2, abs=(longest - shortest) / 2)
    assert len(recorder) == len(slept) == int(longest > 0)
    if slept:
        assert recorder == [
            Notice(f"{starts} starts in a row got no further; the next one follows in {slept[0]:.0f} s")
        ]


@pytest.mark.parametrize("other", [{"run_id": "another"}, {"step": 7}])
def test_starts_of_another_job_or_before_a_newer_checkpoint_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, object]
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
    count = {"run_id": "job", "step": 0, "attempts": 4} | other
    (tmp_path / "attempts-pretrain.json").write_text(json.dumps(count))
    Pauses(Journal()).before_start(Attempts([str(tmp_path)], "pretrain", "job", 5))


def test_without_a_folder_the_starts_of_this_launch_count(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    pauses = Pauses(Journal())
    for _ in range(4):
        pauses.before_start(None)
    assert [round(seconds, -1) for seconds in slept] == [10, 20]
