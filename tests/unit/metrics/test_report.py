"""Tables and means of a run."""

import contextlib
import json
import logging
import resource
import sys

import pytest

from cclm.metrics.measured import Measured
from cclm.metrics.report import Report, mean_rows, retrieval_table
from cclm.metrics.results import write_predictions, write_results
from cclm.metrics.running import Update, means, sums_and_counts


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


def test_warnings_of_the_data_side_are_kept_while_the_run_lasts(tmp_path, caplog):
    log = logging.getLogger("cclm.data.batches.loader")
    Report(tmp_path / "earlier", active=True)
    report = Report(tmp_path / "run", active=True)
    log.warning("skipped a record of data.%s", "images")
    log.info("read the index")
    report.close()
    log.warning("skipped another one")
    assert not (tmp_path / "earlier" / "log.txt").exists()
    (line,) = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert line.endswith(" skipped a record of data.images")
    assert len(caplog.messages) == 2


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
    report = Report(tmp_path, active=True)
    metrics, log = tmp_path / "metrics.jsonl", tmp_path / "log.txt"
    report.line({"step": 1})
    report.say("one")
    with full(metrics.stat().st_size + 5):
        for step in (2, 3):
            report.line({"step": step})
            report.say(f"number {step}")
            logging.getLogger("cclm.data.batches.loader").warning("skipped %d", step)
        assert metrics.read_text() == '{"step": 1}\n'
    shown = capsys.readouterr()
    assert "number 2\nnumber 3\n" in shown.out
    assert shown.err.count(f"{metrics} takes no more (File too large)") == shown.err.count(f"{log} takes no more") == 1
    report.say("room")  # brings the other file's lines, too
    assert metrics.read_text() == "".join(f'{{"step": {step}}}\n' for step in (1, 2, 3))
    said = [line.split(" ", 1)[1] for line in log.read_text().splitlines()]
    assert [line for line in said if "takes no more" not in line] == [
        "one", "number 2", "skipped 2", "number 3", "skipped 3", "room",
    ]  # fmt: skip
    report.close()
    assert "lacks" not in capsys.readouterr().err


def test_what_no_disk_took_is_told_in_the_end(tmp_path, capsys):
    report = Report(tmp_path, active=True)
    (tmp_path / "log.txt").symlink_to("/dev/full")
    (tmp_path / "metrics.jsonl").mkdir()
    logging.getLogger("cclm.data.batches.loader").warning("skipped")
    report.interval({"step": 1, "lr": 0.1, "losses": {}, "learnt": {}, "grad_norm": 1.0, "skipped": {},
                     "images_per_second": 1.0, "texts_per_second": 1.0})  # fmt: skip
    report.close()
    shown = capsys.readouterr()
    assert "step 1/0 | lr 1.00e-01" in shown.out
    assert f"{tmp_path}/log.txt takes no more (No space left on device)" in shown.err
    assert f"{tmp_path}/metrics.jsonl lacks its last 1 lines" in shown.err


def test_a_screen_on_the_same_full_disk_stops_nothing(tmp_path, monkeypatch):
    report = Report(tmp_path, active=True)
    monkeypatch.setattr(sys, "stdout", open("/dev/full", "w"))  # noqa: SIM115
    report.say("words")
    with contextlib.suppress(OSError):
        sys.stdout.close()
    report.close()
    assert (tmp_path / "log.txt").read_text().endswith(" words\n")


def test_a_run_goes_on_without_room_for_its_metrics_anew(tmp_path):
    report = Report(tmp_path, active=True)
    report.line({"step": 1})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"name": "\xc3')  # cut off when the run was
    report.forget_after(1)
    with full(1):
        report.forget_after(1)
    report.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


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
