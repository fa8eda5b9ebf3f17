"""`cclm status` on folders made up: what a person reads, what a program reads, and what is said where little fits."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from cclm.checkpoints.manifest import FileEntry, Manifest, to_bytes
from cclm.cli.main import run
from cclm.cli.status_reading import NO_SIGN_AFTER
from cclm.cli.status_screen import in_units, in_words

RUN = "aaaaaaaa"


def written(**changes: Any) -> dict[str, Any]:
    """A status.json of a run that trains."""
    now = time.time()
    return {
        "task": "pretrain", "run": RUN, "phase": "training", "step": 120, "total_steps": 900, "processes": 2,
        "device": "cpu", "starts": 2,
        "losses": {"images/loss_itc": 1.25, "images/loss_mlm": 4.0, "texts/loss_ttc": 2.0},
        "lr": 1e-4, "learnt": {"temperature": 0.07}, "images_per_second": 34.2, "texts_per_second": 1080.0,
        "model_flops_per_second": 2.5e14, "model_flops_utilization": 0.4012,
        "eta_seconds": 400.0, "interval_time": now, "skipped": {"images": 2, "texts": 1}, "time": now,
        "checkpoint": {"step": 100, "place": "x", "bytes": 5, "seconds": 1.0, "time": now - 200},
        "warning": {"text": "skipped a record", "time": now - 90},
    } | changes  # fmt: skip


LINE = {
    "step": 119, "losses": {"images/loss_itc": 1.5}, "lr": 0.1, "grad_norms": {}, "learnt": {},
    "images_per_second": 1.0, "texts_per_second": 2.0, "seconds": 1.0, "skipped": {"images": 4},
}  # fmt: skip


def put(
    folder: Path, status: dict[str, Any] | None = None, launch: dict[str, Any] | None = None, lines: str = ""
) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in (("status.json", status), ("launch-pretrain.json", launch)):
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    if lines:
        (folder / "metrics.jsonl").write_text(lines)
    return folder


def put_checkpoint(folder: Path, step: int, name: str = RUN) -> None:
    """A whole one, of 5 bytes."""
    place = folder / f"step-{step:08d}"
    place.mkdir(parents=True)
    entry = FileEntry(f"state-{name}-00000000.json", 5, "0" * 8, "0" * 64)
    (place / entry.name).write_bytes(bytes(5))
    (place / "manifest.json").write_bytes(to_bytes(Manifest(name, f"{name}-00000000", step, 1, {"state": entry})))


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert run(["status", *map(str, words)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def as_json(capsys: pytest.CaptureFixture[str], folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shown(capsys, folder, "--json"))
    return found


def test_one_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch = {
        "time": 1.0, "phase": "running", "end": None, "attempts": 1, "max_attempts": 5, "launches": 1,
        "restarts": {"killed": 1, "lost_peer": 2},
        "last_restart": {"cause": "killed", "reason": "rank 1 was killed", "time": time.time() - 300},
    }  # fmt: skip
    folder = put(tmp_path / "run", written(), launch)
    put_checkpoint(folder, 100)
    (folder / "step-00000110").mkdir()  # not whole yet
    assert shown(capsys, f"{folder}/").splitlines() == [
        f"{folder}: training, step 120 of 900 (13%), about 6 min left",
        "  run         pretrain, aaaaaaaa, 2 processes on cpu, started 2 times",
        "  losses      images: itc 1.250  mlm 4.000",
        "              texts:  ttc 2.000",
        "  learning    lr 1.00e-04, temperature 0.0700",
        "  speed       34 images/s, 1,080 texts/s, 250 TFLOP/s (40.1% of the devices' peak)",
        "  checkpoint  step 100, 5 B, 3 min ago",
        "  restarts    3 (killed 1, lost_peer 2); the last one, 5 min ago: rank 1 was killed",
        "  attempts    1 of 5 in a row without a newer checkpoint",
        "  broken      records skipped 3 times (images 2, texts 1)",
        "  warning     skipped a record, 1 min ago",
    ]
    found = as_json(capsys, folder)
    assert (found["phase"], found["step"], found["is_silent"]) == ("training", 120, False)
    assert found["checkpoint"]["step"] == 100 and 195 < found["checkpoint"]["age_seconds"] < 220
    assert found["launcher"]["restarts"] == {"killed": 1, "lost_peer": 2}


def test_an_old_sign_of_life_is_said_and_that_of_a_run_that_ended_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = time.time() - 7 * 60
    folder = put(tmp_path / "run", written(time=old))
    out = shown(capsys, folder)
    assert "no sign of life for 7 min: " in out and " left" not in out
    first = f"{folder}: no sign of life for 7 min, last in phase training, step 120 of 900 (13%)"
    assert out.startswith(f"{first}\n")
    assert as_json(capsys, folder)["is_silent"] is True
    assert as_json(capsys, folder)["eta_seconds"] is None
    put(folder, written(time=time.time() - NO_SIGN_AFTER + 20))
    assert "no sign of life" not in shown(capsys, folder)
    for phase in ("ended", "stopped", "failed"):
        put(folder, written(time=old, phase=phase, error="the loss is nan"))
        out = shown(capsys, folder)
        assert out.startswith(f"{folder}: {phase}, step 120 of 900 (13%), 7 min ago\n") and "no sign" not in out
        assert ("  ended by    the loss is nan\n" in out) == (phase == "failed")


@pytest.mark.parametrize(("interval", "age", "is_stalled"), [
    (2.0, 50.0, False),
    (2.0, 90.0, True),
    (40.0, 90.0, False),
    (40.0, 150.0, True),
    (None, 500.0, False),  # the first steps may take long
    (None, 700.0, True),
])  # fmt: skip
def test_a_run_that_lives_and_makes_no_steps_is_said_to_make_none(
    interval: float | None, age: float, is_stalled: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = time.time() - age
    folder = tmp_path / "run"
    put(folder, written(step_time=last, phase_time=last - 5, interval_seconds=interval, eta_seconds=4000.0))
    found, out = as_json(capsys, folder), shown(capsys, folder)
    assert found["is_stalled"] is is_stalled and age <= found["step_age_seconds"] < age + 30
    assert ("no step for " in out, " left" in out) == (is_stalled, not is_stalled)
    assert (found["eta_seconds"] is None) is is_stalled
    put(folder, written(step_time=last, phase_time=time.time(), interval_seconds=interval))  # has just evaluated
    assert as_json(capsys, folder)["is_stalled"] is False
    put(folder, written(step_time=last, phase="evaluating", interval_seconds=interval))
    found = as_json(capsys, folder)
    assert (found["is_stalled"], found["step_age_seconds"]) == (False, None)


def test_a_hang_is_told_from_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = put(tmp_path / "run", written(step_time=time.time() - 730, phase_time=0.0, interval_seconds=40.0))
    assert shown(capsys, folder).splitlines()[0] == f"{folder}: training, step 120 of 900 (13%), no step for 12 min"
    assert shown(capsys, folder).splitlines()[-1] == (
        "no step for 12 min, and the last logging interval took 40 s: a process hangs, or waits for data or for "
        "another process"
    )


def test_a_time_left_that_is_over_is_not_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = put(tmp_path / "run", written(eta_seconds=50.0, interval_time=time.time() - 51))
    assert " left" not in shown(capsys, folder) and as_json(capsys, folder)["eta_seconds"] is None


def test_json_has_no_number_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = LINE | {"losses": {"images/loss_itc": float("nan"), "images/loss_mlm": 1.0}}
    put(tmp_path / "run", lines=f"{json.dumps(line)}\n")
    out = shown(capsys, tmp_path / "run", "--json")
    found = json.loads(out, parse_constant=pytest.fail)
    assert found["losses"] == {"images/loss_itc": None, "images/loss_mlm": 1.0}


def test_what_the_launcher_says_counts_if_it_is_newer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = put(tmp_path / "run", written(time=time.time() - 1000))
    end = {"exit_code": 137, "cause": "killed", "reason": "rank 0 was killed", "may_retry": True, "time": time.time()}
    put(folder, launch={"time": time.time(), "phase": "ended", "end": end, "restarts": {}})
    out = shown(capsys, folder)
    assert "failed" in out and "  ended by    rank 0 was killed" in out and "  restarts    none" in out
    put(folder, launch={"time": time.time(), "phase": "ended", "end": end | {"cause": "preempted"}, "restarts": {}})
    assert ": stopped, " in shown(capsys, folder)
    put(folder, launch={"time": time.time() - 500, "phase": "rendezvous", "end": None, "restarts": {}})
    assert ": rendezvous, " in shown(capsys, folder)
    assert as_json(capsys, folder)["is_silent"] is True
    put(folder, written(phase="failed", error="a store is out", time=time.time() - 60))
    put(folder, launch={"time": time.time(), "phase": "running", "end": None, "restarts": {"storage_outage": 1}})
    assert ": preparing, " in shown(capsys, folder)
    put(folder, launch={"time": time.time() - 90, "phase": "running", "end": None, "restarts": {}})
    assert ": failed, " in shown(capsys, folder)


def test_processes_that_are_started_again_do_not_train_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = time.time()
    restart = {"cause": "killed", "reason": "rank 0 was killed", "time": now - 20}
    launch = {"time": now - 20, "phase": "running", "end": None, "restarts": {"killed": 1}, "last_restart": restart}
    folder = put(tmp_path / "run", written(time=now - 25), launch)
    assert shown(capsys, folder).startswith(f"{folder}: preparing, step 120 of 900 (13%)\n")
    found = as_json(capsys, folder)
    assert (found["phase"], found["eta_seconds"]) == ("preparing", None)
    put(folder, written(time=now - 1000))  # the launcher itself was killed, and is started again
    assert "no sign of life" not in shown(capsys, folder)
    put(folder, written(time=now - 10))  # the next attempt has written
    assert "training" in shown(capsys, folder).splitlines()[0]
    assert as_json(capsys, folder)["eta_seconds"] is not None


def test_a_newer_checkpoint_ends_the_attempts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch = {"time": 1.0, "phase": "running", "end": None, "attempts": 2, "max_attempts": 5, "attempts_step": 100}
    folder = put(tmp_path / "run", written(), launch)
    put_checkpoint(folder, 100)
    assert "  attempts    2 of 5 in a row without a newer checkpoint\n" in shown(capsys, folder)
    put_checkpoint(folder, 110)
    assert "newer checkpoint" not in shown(capsys, folder)
    (folder / "launch-pretrain.json").unlink()
    (folder / "attempts-pretrain.json").write_text('{"run_id": "a", "step": 110, "attempts": 3}')
    assert "  attempts    3 in a row without a newer checkpoint\n" in shown(capsys, folder)
    put_checkpoint(folder, 120)
    assert "newer checkpoint" not in shown(capsys, folder)


def test_metrics_that_are_cut_and_no_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As an earlier version of cclm, or a crash, leaves it."""
    score = {"step": 119, "retrieval": {"en": {"r_mean": 40.0}, "mean": {"r_mean": 30.0}}}
    lines = f'{json.dumps(LINE)}\n{json.dumps(score)}\n{{"step": 120, "los'
    folder = put(tmp_path / "run", lines=lines)
    assert shown(capsys, folder).splitlines() == [
        f"{folder}: unknown, step 119",
        "  losses      images: itc 1.500",
        "  learning    lr 1.00e-01",
        "  speed       1 images/s, 2 texts/s",
        "  checkpoint  none yet",
        "  evaluated   retrieval after step 119: r_mean 30.00 %, mean over languages",
        "  broken      records skipped 4 times (images 4)",
    ]
    (folder / "status.json").write_text('{"phase": "training", "losses": {"a/b": nul')
    damaged = "status.json is cut or damaged: it holds no JSON object; left out"
    assert shown(capsys, folder).splitlines()[-1] == damaged
    found = as_json(capsys, folder)
    assert (found["losses"], found["notes"]) == ({"images/loss_itc": 1.5}, [damaged])
    put(
        folder, {"phase": 3, "losses": [], "step": "x", "time": "now", "checkpoint": 1, "warning": "w", "skipped": None}
    )
    assert as_json(capsys, folder)["step"] == 119


def test_a_checkpoint_alone_has_the_age_of_its_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_checkpoint(tmp_path, 40)
    os.utime(tmp_path / "step-00000040" / "manifest.json", (time.time() - 7200,) * 2)
    assert "  checkpoint  step 40, 5 B, 2 h 0 min ago" in shown(capsys, tmp_path)
    assert as_json(capsys, tmp_path)["run"] == RUN


def test_two_runs_in_one_folder_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = put(tmp_path / "run", written(), lines="".join(f"{json.dumps(LINE | {'step': n})}\n" for n in (8, 9, 3)))
    put_checkpoint(folder, 100, name="bbbbbbbb")
    assert shown(capsys, folder).splitlines()[-2:] == [
        "two runs wrote to metrics.jsonl: step 3 follows step 9; give each a folder of its own",
        "two runs are in this folder: status.json is of run aaaaaaaa, and the newest checkpoint (step 100) of run "
        "bbbbbbbb; give each a folder of its own",
    ]


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for name, sentence in {
        "": f"{tmp_path} is not a run's folder: it has no status.json, no metrics.jsonl and no checkpoint; name the "
        "output_dir or output_hdfs of a run",
        "file": f"{tmp_path}/file is a file; name the folder of a run, its output_dir or output_hdfs",
        "none": f"there is no folder {tmp_path}/none; name the output_dir or output_hdfs of a run",
    }.items():
        assert run(["status", str(tmp_path / name)]) == 2
        assert capsys.readouterr().err == f"cclm: error: {sentence}\n"


def test_watching_ends_with_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(tmp_path / "run", written())
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        put(folder, written(phase="ended", step=900))

    monkeypatch.setattr(time, "sleep", sleep)
    out = shown(capsys, folder, "--watch", "2")
    assert slept == [2.0] and out.count(f"{folder}: ") == 2 and "ended, step 900 of 900 (100%)" in out
    put(folder, written())
    lines = shown(capsys, folder, "--watch", "--json").splitlines()
    assert [json.loads(line)["phase"] for line in lines] == ["training", "ended"] and slept == [2.0, 5.0]


@pytest.mark.parametrize(("words", "sentence"), [
    (["--watch", "output/demo"], "'output/demo' is no number of seconds; write RUN before --watch"),
    (["run", "--watch", "0"], "0 is not above 0; write the seconds until the next look, for example 5"),
])  # fmt: skip
def test_seconds_that_are_none(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run(["status", *words])
    assert end.value.code == 2 and capsys.readouterr().err.endswith(f"{sentence}\n")


@pytest.mark.parametrize(("changes", "is_over"), [
    ({"phase": "training"}, False),
    ({"phase": "training", "time": -500}, False),  # nothing for long, but a scheduler may start it again
    ({"phase": "training", "time": -700}, True),
    ({"phase": "stopped", "time": -300}, False),
    ({"phase": "stopped", "time": -700}, True),
    ({"phase": "failed", "time": -700}, True),
    ({"phase": "ended"}, True),
])  # fmt: skip
def test_watching_ends_when_nothing_more_is_to_be_expected(
    changes: dict[str, Any], is_over: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = put(tmp_path / "run", written(**{**changes, "time": time.time() + changes.get("time", 0)}))

    def sleep(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    assert as_json(capsys, folder)["is_over"] is is_over
    assert run(["status", str(folder), "--watch"]) == (0 if is_over else 130)


def test_waiting_for_other_machines_is_never_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    put(folder, launch={"time": time.time() - 700, "phase": "rendezvous", "end": None, "restarts": {}})
    put(folder, written(time=time.time() - 800))
    assert as_json(capsys, folder)["is_over"] is False


def test_a_save_just_before_the_end_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The writer is a process of its own: it may commit a step that the training has not written down."""
    folder = put(tmp_path / "run", written(step=120, time=time.time() - 400))
    put_checkpoint(folder, 125)
    assert "step 125 of 900" in shown(capsys, folder)
    put(folder, written(step=120))
    assert "step 120 of 900" in shown(capsys, folder)  # alive: it may have gone back to an earlier checkpoint


def evaluation(**changes: Any) -> dict[str, Any]:
    """An evaluation.json."""
    now = time.time()
    scores = {"en": 50.0, "de": 30.0, "mean": 40.0, "mean without en": 30.0}
    return {
        "task": "classification", "weights": "out/x/best/step-00000040", "step": 40, "phase": "ended", "processes": 1,
        "device": "cpu", "time": now - 90,
        "evaluated": {"split": "test", "step": 40, "metric": "accuracy", "scores": scores, "time": now - 90},
    } | changes  # fmt: skip


def test_the_folder_of_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "evaluation.json").write_text(json.dumps(evaluation()))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 40, "test": {"languages": {"en": {"accuracy": 50.0}}}}))
    assert shown(capsys, folder).splitlines() == [
        f"{folder}: ended, 1 min ago",
        "  evaluation  classification, 1 process on cpu",
        "  model       out/x/best/step-00000040, step 40",
        "  scores      test, accuracy in percent: en 50.00  de 30.00  mean 40.00  mean without en 30.00",
    ]
    found = as_json(capsys, folder)
    assert (found["trains"], found["phase"], found["task"]) == (False, "ended", "classification")
    assert found["evaluation"]["evaluated"]["scores"]["mean"] == 40.0 and found["is_over"] is True
    running = evaluation(phase="evaluating", evaluated=None, time=time.time() - 400)
    (folder / "evaluation.json").write_text(json.dumps(running))
    assert shown(capsys, folder).startswith(f"{folder}: no sign of life for 6 min, last in phase evaluating\n")


def test_an_evaluation_in_the_folder_of_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = put(tmp_path / "run", written())
    put_checkpoint(folder, 100)
    (folder / "evaluation.json").write_text(json.dumps(evaluation()))
    end = {"exit_code": 1, "cause": "bug", "reason": "a bug", "time": time.time()}
    launch = {"time": time.time() + 9, "phase": "ended", "end": end, "restarts": {}}
    (folder / "launch-evaluate.json").write_text(json.dumps(launch))  # says nothing about the training
    out = shown(capsys, folder)
    assert out.startswith(f"{folder}: training, step 120 of 900 (13%)")
    row = "  evaluation  ended, 1 min ago, out/x/best/step-00000040, step 40; test, accuracy in percent: en 50.00  de "
    assert row in out and "warning: " not in out
    warning = {"text": "no metrics: port 9400 is taken", "time": time.time() - 90}
    (folder / "evaluation.json").write_text(json.dumps(evaluation(warning=warning)))
    lines = shown(capsys, folder).splitlines()
    [number] = [number for number, line in enumerate(lines) if line.startswith(row)]
    assert lines[number + 1] == "              warning: no metrics: port 9400 is taken, 1 min ago"
    assert lines[-1] == "  warning     skipped a record, 1 min ago"  # that of the training


def test_sizes_in_units() -> None:
    assert [in_units(size) for size in (5, 999, 1000, 99_960, 5_312_000, 2_049e6, 9.9996e9, 3.2e15)] == [
        "5 B", "999 B", "1.00 kB", "100 kB", "5.31 MB", "2.05 GB", "10.0 GB", "3,200 TB",
    ]  # fmt: skip


def test_times_in_words() -> None:
    assert [in_words(seconds) for seconds in (0.4, 59, 61, 3599, 3600, 11400, 187200)] == [
        "0 s", "59 s", "1 min", "59 min", "1 h 0 min", "3 h 10 min", "2 d 4 h",
    ]  # fmt: skip
