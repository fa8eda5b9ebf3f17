"""`status.json`: what a run says about itself while it trains."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from cclm.events import (
    Evaluated,
    EvaluationStarted,
    Event,
    Interval,
    Journal,
    Notice,
    PhaseChanged,
    Saved,
    SaveFailed,
    Started,
    StepDone,
    Stopped,
    Warned,
)
from cclm.launch_contract import METRICS_FOLDER, STORE_WAITS
from cclm.metrics.report import Report, open_journal
from cclm.metrics.status_file import StatusFile
from cclm.metrics.waiting import Waiter, WaitingMark


class Collected:
    """A sink that keeps all events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def handle(self, event: Event) -> None:
        self.events.append(event)


def started(run: str = "aaaaaaaa", step: int = 0) -> Started:
    return Started(
        task="pretrain", step=step, total_steps=20, parameters=1, processes=2, device="cpu", threads=1, records={},
        places=(), run=run,
    )  # fmt: skip


def interval(step: int) -> Interval:
    return Interval(
        step=step, total_steps=20, losses={"images/loss_itc": 1.5}, lr=0.1, grad_norms={}, learnt={"temperature": 0.07},
        images_per_second=3.0, texts_per_second=4.0, seconds=2.0, skipped={"texts": 2}, eta_seconds=30.0,
    )  # fmt: skip


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "status.json").read_text())
    return found


@pytest.fixture
def events() -> Collected:
    return Collected()


@pytest.fixture
def journal(events: Collected) -> Journal:
    return Journal([events])


def test_it_tells_what_happens(tmp_path: Path, journal: Journal) -> None:
    begun = time.time()
    file = StatusFile(tmp_path / "status.json", journal)
    file.handle(Notice("nothing is known yet"))
    file.handle(Warned("a broken index"))
    assert list(tmp_path.iterdir()) == []
    file.handle(started())
    assert read(tmp_path)["phase"] == "preparing" and read(tmp_path)["warning"]["text"] == "a broken index"
    file.handle(PhaseChanged("training"))
    file.handle(StepDone(4))
    file.handle(interval(5))
    now = read(tmp_path)
    assert (now["phase"], now["step"], now["total_steps"], now["eta_seconds"]) == ("training", 5, 20, 30.0)
    assert now["phase_time"] <= now["step_time"] <= now["interval_time"] and now["interval_seconds"] == 2.0
    assert now["losses"] == {"images/loss_itc": 1.5} and now["skipped"] == {"texts": 2}
    file.handle(SaveFailed(5, "output", "No space left", 1, 3))
    assert read(tmp_path)["save_failure"]["reason"] == "No space left"
    file.handle(Saved(10, "output", 1000, 0.5, 0.1, time=1.7e9))
    assert read(tmp_path)["save_failure"] is None
    assert (read(tmp_path)["checkpoint"]["step"], read(tmp_path)["checkpoint"]["time"]) == (10, 1.7e9)
    file.handle(Saved(10, "output/best", 400, 0.2, 0.0, is_best=True))
    now = read(tmp_path)
    assert (now["checkpoint"]["place"], now["checkpoint"]["bytes"]) == ("output", 1000)  # what the run can go on from
    assert (now["best"]["place"], now["best"]["bytes"]) == ("output/best", 400)
    file.handle(PhaseChanged("ended"))
    assert read(tmp_path)["phase"] == "ended" and begun <= read(tmp_path)["time"] <= time.time()
    file.close()
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_a_loader_process_that_waits_for_a_store_is_told(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "marks").mkdir()
    monkeypatch.delenv(METRICS_FOLDER, raising=False)
    monkeypatch.setenv(STORE_WAITS, str(tmp_path / "marks"))
    loader = WaitingMark(Waiter.LOADER)
    file = StatusFile(tmp_path / "status.json", journal)
    file.handle(started())
    file.handle(PhaseChanged("training"))
    loader.begin()
    file.handle(interval(5))
    assert read(tmp_path)["phase"] == "waiting_for_store"
    loader.end()
    file.handle(interval(10))
    assert read(tmp_path)["phase"] == "training"
    loader.begin()
    file.handle(PhaseChanged("ended"))
    assert read(tmp_path)["phase"] == "ended"
    file.close()


def test_an_evaluation_has_a_file_of_its_own(tmp_path: Path, journal: Journal) -> None:
    """It may write into the folder of a run that trains."""
    (tmp_path / "status.json").write_text("{}")
    with Report(journal, tmp_path, is_first=True):
        journal.emit(EvaluationStarted("xvnli", "out/best/step-00000010", 10, 1, 2, "cpu"))
        journal.emit(PhaseChanged("evaluating"))
        scores = {"en": {"accuracy": 50.0}, "de": {"accuracy": 30.0}}
        journal.emit(Evaluated("test", 10, scores, {"en": 2, "de": 2}))
        journal.emit(PhaseChanged("ended"))
    now = json.loads((tmp_path / "evaluation.json").read_text())
    assert (now["task"], now["weights"], now["step"], now["phase"]) == ("xvnli", "out/best/step-00000010", 10, "ended")
    assert now["evaluated"]["scores"] == {"en": 50.0, "de": 30.0, "mean": 40.0, "mean without en": 30.0}
    assert (now["evaluated"]["split"], now["evaluated"]["metric"]) == ("test", "accuracy")
    assert (tmp_path / "status.json").read_text() == "{}"


def test_a_stop_is_told_once_everything_is_saved(tmp_path: Path, journal: Journal) -> None:
    file = StatusFile(tmp_path / "status.json", journal)
    file.handle(started())
    file.handle(Stopped("SIGTERM", 7, 20))
    assert (read(tmp_path)["phase"], read(tmp_path)["stopped_by"]) == ("saving", "SIGTERM")
    file.handle(PhaseChanged("ended"))
    assert read(tmp_path)["phase"] == "stopped"
    file.close()


def test_a_later_start_of_the_same_run_keeps_the_last_checkpoint(tmp_path: Path, journal: Journal) -> None:
    for run, starts, step in (("aaaaaaaa", 1, 10), ("aaaaaaaa", 2, 10), ("bbbbbbbb", 1, None)):
        file = StatusFile(tmp_path / "status.json", journal)
        file.handle(started(run))
        if starts == 1 and step:
            file.handle(Saved(10, "output", 1000, 0.5, 0.1))
        assert read(tmp_path)["starts"] == starts
        assert (read(tmp_path).get("checkpoint") or {}).get("step") == step
        file.close()
    (tmp_path / "status.json").write_text("[1")
    file = StatusFile(tmp_path / "status.json", journal)
    file.handle(started("bbbbbbbb"))
    assert read(tmp_path)["starts"] == 1
    file.close()


def test_it_shows_signs_of_life_until_it_is_closed(tmp_path: Path, journal: Journal) -> None:
    file = StatusFile(tmp_path / "status.json", journal, every=0.02)
    file.handle(started())
    first = read(tmp_path)["time"]
    deadline = time.monotonic() + 120
    while read(tmp_path)["time"] == first and time.monotonic() < deadline:
        time.sleep(0.02)
    file.close()
    last = read(tmp_path)["time"]
    time.sleep(0.1)
    assert read(tmp_path)["time"] == last > first


def test_a_disk_that_takes_nothing_is_said_once_in_a_row(tmp_path: Path, journal: Journal, events: Collected) -> None:
    blocked = tmp_path / ".status.json.tmp"
    (blocked / "else").mkdir(parents=True)
    file = StatusFile(tmp_path / "status.json", journal)
    file.handle(started())
    file.handle(interval(1))
    [notice] = events.events
    assert isinstance(notice, Notice) and notice.text.startswith(f"{tmp_path}/status.json cannot be written (")
    (blocked / "else").rmdir()
    blocked.rmdir()
    file.handle(interval(2))
    assert read(tmp_path)["step"] == 2
    file.close()
    assert len(events.events) == 1


def test_a_folder_that_is_gone_at_the_end_is_nothing_to_say(
    tmp_path: Path, journal: Journal, events: Collected
) -> None:
    """The temporary folder of a run whose places are all remote."""
    (tmp_path / "run").mkdir()
    file = StatusFile(tmp_path / "run" / "status.json", journal)
    file.handle(started())
    (tmp_path / "run" / "status.json").unlink()
    (tmp_path / "run").rmdir()
    file.handle(interval(1))
    file.close()
    assert events.events == []


def test_a_report_has_it_where_something_is_trained_and_says_why_it_failed(tmp_path: Path) -> None:
    journal = open_journal(is_first=True)
    with Report(journal, tmp_path / "test", is_first=True):
        journal.emit(interval(1))
    assert not (tmp_path / "test" / "status.json").exists()
    with pytest.raises(ValueError), Report(journal, tmp_path / "run", is_first=True, total=20):
        journal.emit(started())
        logging.getLogger("cclm.data.batches.loader").warning("skipped a record")
        raise ValueError("the loss is nan\nat step 3")
    found = read(tmp_path / "run")
    assert (found["phase"], found["error"]) == ("failed", "the loss is nan")
    assert found["warning"]["text"] == "skipped a record"
    assert [type(sink).__name__ for sink in journal.sinks] == ["Console"]
    with pytest.raises(SystemExit), Report(journal, tmp_path / "run", is_first=True, total=20):
        journal.emit(started())
        raise SystemExit(143)  # SIGTERM before the first step
    assert read(tmp_path / "run")["phase"] == "stopped"
