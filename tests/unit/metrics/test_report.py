"""Where the events of a run go, and what its tables and means say."""

import contextlib
import json
import logging
import resource
import sys
from pathlib import Path

import pytest

from cclm.events import Evaluated, Event, Interval, Journal, Notice, RecordSkipped, Started, StepDone, Validated
from cclm.metrics.measured import Measured
from cclm.metrics.report import Report, open_journal
from cclm.metrics.results import write_predictions, write_results
from cclm.metrics.running import Update, means, sums_and_counts
from cclm.metrics.sentences import sentence
from cclm.metrics.tables import mean_rows, retrieval_table


def row(value: float) -> dict[str, float]:
    return {f"{side}_r{k}": value + k for side in ("txt", "img") for k in (1, 5, 10)} | {"r_mean": value}


def test_table_is_aligned_whatever_the_numbers():
    lines = retrieval_table({"en": row(0.0), "a long name": row(89.5)}).splitlines()
    assert len({len(line) for line in lines[1:]}) == 1
    assert lines[2].split() == ["en", "1.00", "5.00", "10.00", "1.00", "5.00", "10.00", "0.00"]


def test_means_over_languages():
    rows = mean_rows({"en": row(60.0), "de": row(30.0), "fr": row(0.0)})
    assert rows["mean"]["r_mean"] == 30
    assert rows["mean without en"]["r_mean"] == 15
    assert list(mean_rows({"de": row(30.0)})) == ["mean"]
    assert list(mean_rows({"en": row(30.0)})) == ["mean"]


def test_mean_of_unequal_processes_is_over_updates_not_over_means():
    first = sums_and_counts([Update(0, "images", {"loss": 1.0}), Update(1, "images", {"loss": 2.0})])
    second = sums_and_counts([Update(0, "images", {"loss": 9.0})])
    assert means({key: first[key] + second[key] for key in first}) == {"images/loss": pytest.approx(4.0)}


def test_rows_are_json():
    assert json.loads(json.dumps(mean_rows({"de": row(1.0)})))["mean"]["txt_r5"] == 6


def interval(step: int, total_steps: int = 0, **norms: float) -> Interval:
    return Interval(
        step=step, total_steps=total_steps, losses={}, lr=0.1, grad_norms=norms or {"images": 1.0}, learnt={},
        images_per_second=1.0, texts_per_second=1.0, seconds=2.0, skipped={},
    )  # fmt: skip


def report_in(folder: Path, *, is_first: bool = True) -> tuple[Journal, Report]:
    journal = open_journal(is_first=is_first)
    return journal, Report(journal, folder, is_first=is_first)


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_warnings_of_the_data_side_are_kept_while_the_run_lasts(tmp_path, caplog):
    log = logging.getLogger("cclm.data.batches.loader")
    report_in(tmp_path / "earlier")
    _, report = report_in(tmp_path / "run")
    log.warning("skipped a record of data.%s", "images")
    log.info("read the index")
    report.close()
    log.warning("skipped another one")
    assert not (tmp_path / "earlier" / "log.txt").exists()
    (line,) = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert line.endswith(" skipped a record of data.images")
    assert len(caplog.messages) == 2


class Collected:
    """A sink that keeps all events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def handle(self, event: Event) -> None:
        self.events.append(event)


def test_a_warning_can_bring_its_event(tmp_path):
    journal, report = report_in(tmp_path)
    collected = Collected()
    journal.sinks.append(collected)
    event = RecordSkipped("skipped a record", "images", "bad image")
    logging.getLogger("cclm.data.batches.loader").warning(event.text, extra={"event": event})
    assert collected.events == [event]
    assert (tmp_path / "log.txt").read_text().endswith(" skipped a record\n")
    report.close()
    assert [type(sink).__name__ for sink in journal.sinks] == ["Console", "Collected"]


def test_other_processes_than_the_first_report_warnings_alone(tmp_path, capsys, monkeypatch):
    journal, report = report_in(tmp_path, is_first=False)
    journal.emit(Notice("one"))
    journal.emit(interval(1))
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own
    logging.getLogger("cclm.data.batches.loader").warning("skipped")
    report.close()
    assert capsys.readouterr() == ("", "skipped\n")
    assert not (tmp_path / "metrics.jsonl").exists()
    (line,) = (tmp_path / "log.txt").read_text().splitlines()
    assert line.endswith(" skipped")


def test_gradient_norms_are_by_kind(tmp_path):
    journal, report = report_in(tmp_path)
    journal.emit(interval(5, 10, images=1.234, texts=0.98))
    report.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["grad_norms"] == {"images": 1.234, "texts": 0.98}
    line = "step  5/10 | lr 1.00e-01 | grad images 1.23 texts 0.98 | 1 images/s 1 texts/s"
    assert sentence(interval(5, 10, images=1.234, texts=0.98)) == line
    assert "| grad 1.23 |" in sentence(interval(5, 10, images=1.234))


def test_sentences_of_a_start():
    facts = dict(step=0, total_steps=20, parameters=1_250_000, processes=2, device="cpu", threads=4,
                 places=("output/a", "s3://b/a"))  # fmt: skip
    assert sentence(Started(task="pretrain", records={"texts": 1234, "images": 5}, **facts)) == (
        "starting: 20 steps, 1.2 M parameters, 2 processes on cpu, 4 threads each\n"
        "records: 1,234 texts, 5 images\noutput: output/a and s3://b/a"
    )
    examples = dict(
        task="retrieval", records={"examples": 8}, details="8 of train.json", weights="w.th (pretrain, step 3)"
    )
    assert sentence(Started(**examples, **facts)) == (
        "retrieval: starting from w.th (pretrain, step 3): 20 steps, 1.2 M parameters, 2 processes on cpu\n"
        "training examples: 8 of train.json\noutput: output/a"
    )
    again = sentence(Started(**examples, **facts | {"step": 7, "processes": 1}))
    assert again.startswith("retrieval: resuming after step 7: 20 steps, 1.2 M parameters, 1 process on cpu\n")
    done = sentence(Started(**examples, **facts | {"step": 20}))
    assert done.startswith(
        "retrieval: finished already, after step 20: nothing is left to train (--resume never begins anew): 20 steps"
    )


@pytest.mark.parametrize(("split", "step", "title"), [
    ("retrieval", 9, "held-out retrieval after step 9, percent"),
    ("retrieval", 0, "held-out retrieval, percent"),
    ("test", 9, "test, step 9, percent"),
    ("test", 0, "test, percent"),
])  # fmt: skip
def test_scores_of_weights_that_do_not_say_their_step(split, step, title):
    assert sentence(Evaluated(split, step, {"en": {"accuracy": 1.0}}, {"en": 4})).splitlines()[0] == title


def test_a_validation_is_a_table_and_a_line(tmp_path, capsys):
    journal, report = report_in(tmp_path)
    journal.emit(StepDone(4))
    scores = {"en": {"accuracy": 75.0}, "de": {"accuracy": 25.0}}
    journal.emit(Validated("validation", 4, scores, {"en": 4, "de": 2}, is_best=True))
    report.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "validation after step 4, percent, the best so far"
    assert [line.split() for line in lines[2:]] == [
        ["en", "75.00", "4"], ["de", "25.00", "2"], ["mean", "50.00"], ["mean", "without", "en", "25.00"],
    ]  # fmt: skip
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 4,
        "validation": {
            "languages": {"en": {"accuracy": 75.0, "examples": 4}, "de": {"accuracy": 25.0, "examples": 2}},
            "mean": {"accuracy": 50.0},
            "mean_without_en": {"accuracy": 25.0},
        },
    }


@contextlib.contextmanager
def full(size):
    """No file may grow beyond `size` bytes: as on a disk that becomes full, a part of what is written fits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_nothing_and_no_line_is_lost_or_torn(tmp_path, capsys):
    """metrics.jsonl has whole lines at any time, and all of them, in order, once there is room."""
    journal, report = report_in(tmp_path)
    metrics, log = tmp_path / "metrics.jsonl", tmp_path / "log.txt"
    journal.emit(interval(1))
    journal.emit(Notice("one"))
    with full(metrics.stat().st_size + 5):
        for step in (2, 3):
            journal.emit(interval(step))
            journal.emit(Notice(f"number {step}"))
            logging.getLogger("cclm.data.batches.loader").warning("skipped %d", step)
        assert steps(tmp_path) == [1]
    shown = capsys.readouterr()
    assert shown.out.index("number 2\n") < shown.out.index("number 3\n")
    assert shown.err.count(f"{metrics} takes no more (File too large)") == shown.err.count(f"{log} takes no more") == 1
    journal.emit(Notice("room"))  # brings the other file's lines, too
    assert steps(tmp_path) == [1, 2, 3]
    lines = [line.split(" ", 1)[1].partition(" | ")[0] for line in log.read_text().splitlines()]
    assert [line for line in lines if "takes no more" not in line] == [
        "step 1/0", "one", "step 2/0", "number 2", "skipped 2", "step 3/0", "number 3", "skipped 3", "room",
    ]  # fmt: skip
    report.close()
    assert "lacks" not in capsys.readouterr().err


def test_what_no_disk_took_is_told_in_the_end(tmp_path, capsys):
    journal, report = report_in(tmp_path)
    (tmp_path / "log.txt").symlink_to("/dev/full")
    (tmp_path / "metrics.jsonl").mkdir()
    logging.getLogger("cclm.data.batches.loader").warning("skipped")
    journal.emit(interval(1))
    report.close()
    shown = capsys.readouterr()
    assert "step 1/0 | lr 1.00e-01" in shown.out
    assert f"{tmp_path}/log.txt takes no more (No space left on device)" in shown.err
    assert f"{tmp_path}/metrics.jsonl lacks its last 1 lines" in shown.err


def test_a_screen_on_the_same_full_disk_stops_nothing(tmp_path, monkeypatch):
    journal, report = report_in(tmp_path)
    monkeypatch.setattr(sys, "stdout", open("/dev/full", "w"))
    journal.emit(Notice("words"))
    with contextlib.suppress(OSError):
        sys.stdout.close()
    report.close()
    assert (tmp_path / "log.txt").read_text().endswith(" words\n")


def test_a_run_goes_on_without_room_for_its_metrics_anew(tmp_path):
    journal, report = report_in(tmp_path)
    journal.emit(interval(1))
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"name": "\xc3')  # cut off when the run was
    report.forget_after(1)
    with full(1):
        report.forget_after(1)
    report.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole


def test_predictions_may_hold_half_a_surrogate_pair(tmp_path):
    line = {"text": "été \ud800"}
    write_predictions(tmp_path, "test", {"fr": Measured({}, 1, [line])})
    written = (tmp_path / "predictions/test-fr.jsonl").read_text(encoding="utf-8")
    assert json.loads(written) == line and "été" in written


def test_an_evaluation_alone_adds_to_the_results_of_its_model(tmp_path):
    """`--evaluate --gmt` into the folder of the run, as `cclm run --help` shows it."""
    facts = {"task": "classification", "step": 8, "checkpoint": "output/xvnli/best/step-00000008", "protocol": None}
    trained = facts | {"validation": {"score": 70.0}, "test": {"languages": {"en": {"accuracy": 71.0}}}}
    write_results(tmp_path, trained)
    write_results(tmp_path, facts | {"validation": None, "translated_test": {"languages": {}}})
    assert json.loads((tmp_path / "results.json").read_text()) == trained | {"translated_test": {"languages": {}}}
    write_results(tmp_path, facts | {"protocol": "few-shot", "validation": None, "test": {"languages": {}}})
    write_results(tmp_path, facts | {"validation": None, "test": {"languages": {}}})
    assert json.loads((tmp_path / "results.json").read_text())["protocol"] is None
    other = facts | {"checkpoint": "output/other/best/step-00000008", "validation": None, "test": {"languages": {}}}
    write_results(tmp_path, other)
    assert json.loads((tmp_path / "results.json").read_text()) == other
