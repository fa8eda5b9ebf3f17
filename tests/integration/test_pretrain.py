"""`cclm pretrain` and `cclm evaluate` from files to results."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import equal

from cclm.cli.status_reading import read_status
from tests.interrupts import obey_interrupts
from tests.stores.server import free_ports

from .conftest import metrics, run, start


def folders(output: Path) -> list[str]:
    return sorted(path.name for path in output.glob("step-*"))


def contents(checkpoint: Path) -> dict:
    """Copies: load_file maps the file, whose bytes a test may change."""
    return {
        name: tensor.clone() for file in checkpoint.glob("*.safetensors") for name, tensor in load_file(file).items()
    }


def assert_equal_checkpoints(mine: Path, theirs: Path) -> None:
    mine, theirs = contents(mine), contents(theirs)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert equal(tensor, theirs[name]), name


def wait_for_line(path: Path, number: int) -> None:
    deadline = time.monotonic() + 240
    while not path.exists() or len(path.read_text().splitlines()) < number:
        assert time.monotonic() < deadline, f"no line {number} in {path}"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_second_run_in_the_folder_of_a_living_one_is_refused(config, tmp_path):
    """As when `srun` starts a command twice. The first run does not notice."""
    path, log = config(**{"training.max_steps": 100_000}), tmp_path / "run" / "metrics.jsonl"
    first = start("pretrain", path)
    try:
        wait_for_line(log, 1)
        refused = run("pretrain", path, "optimizer.lr=0.001", code=2)
        assert f"a run already works in {tmp_path / 'run'}: process {first.pid} on " in refused.stderr
        wait_for_line(log, len(log.read_text().splitlines()) + 3)
        first.send_signal(signal.SIGTERM)
        out, err = first.communicate(timeout=240)
    finally:
        first.kill()
    assert first.returncode == 143, err
    made = [line["step"] for line in metrics(tmp_path / "run")]
    assert made == list(range(1, len(made) + 1))


@pytest.mark.slow
def test_two_tasks_of_srun_are_one_run(config, tmp_path, monkeypatch):
    (port,) = free_ports(1)
    step = {
        "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2",
        "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NODEID": "0",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    path, tasks = config(), []
    for task in "01":
        monkeypatch.setenv("SLURM_PROCID", task)
        monkeypatch.setenv("SLURM_LOCALID", task)
        tasks.append(start("pretrain", path))
    errors = [task.communicate(timeout=240)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], errors
    assert "2 processes on cpu" in (tmp_path / "run" / "log.txt").read_text()
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 21))


def test_left_over_variables_of_one_process_change_nothing(config, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    run("pretrain", config(**{"training.max_steps": 1}))
    assert "1 process on cpu" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.slow
def test_it_trains_saves_evaluates_and_goes_on_bit_for_bit(config, held_out, tmp_path):
    """One uninterrupted run, and one that is killed in the middle of an epoch and started again."""
    whole = config("whole", evaluation=held_out("en", "de", "zh"))
    done = run("pretrain", whole)
    lines = [line for line in metrics(tmp_path / "whole") if "losses" in line]
    assert [line["step"] for line in lines] == list(range(1, 21))
    names = {key.split("/")[0] for line in lines for key in line["losses"]}
    assert names == {"images", "regions", "images_mono", "texts"}
    assert folders(tmp_path / "whole") == ["step-00000010", "step-00000015", "step-00000020"]
    result = json.loads((tmp_path / "whole" / "retrieval.json").read_text())
    assert list(result["languages"]) == ["en", "de", "zh"]
    expected = sum(result["languages"][language]["r_mean"] for language in ("de", "zh")) / 2
    assert result["mean_without_en"]["r_mean"] == pytest.approx(expected)
    table = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in table if len(row) >= 8 and row[-1].replace(".", "").isdigit()][-5:] == [
        "en", "de", "zh", "mean", "mean",
    ]  # fmt: skip

    parts = config("parts", evaluation=held_out("en", "de", "zh"))
    is_through = True
    while is_through:  # before it is killed, on a busy machine
        shutil.rmtree(tmp_path / "parts", ignore_errors=True)
        process = start("pretrain", parts)
        wait_for_line(tmp_path / "parts" / "metrics.jsonl", 8)
        wait_for_line(tmp_path / "parts" / "step-00000005" / "manifest.json", 1)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        is_through = (tmp_path / "parts" / "step-00000020" / "manifest.json").exists()
    resumed = run("pretrain", parts)
    assert "resuming after step" in resumed.stdout and "other settings" not in resumed.stdout
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert_equal_checkpoints(tmp_path / "parts" / "step-00000020", tmp_path / "whole" / "step-00000020")

    again = run("evaluate", whole, "--checkpoint", tmp_path / "whole", f"output_dir={tmp_path}/again", "--tensorboard")
    before, status = metrics(tmp_path / "whole"), (tmp_path / "whole" / "status.json").read_text()
    run("evaluate", whole, "--checkpoint", tmp_path / "whole" / "step-00000010")
    assert metrics(tmp_path / "whole")[:-1] == before  # evaluating an early checkpoint forgets nothing
    assert (tmp_path / "whole" / "status.json").read_text() == status
    assert json.loads((tmp_path / "again" / "retrieval.json").read_text()) == result
    assert "image to text" in again.stdout
    evaluation = read_status(str(tmp_path / "again"))
    assert (evaluation.trains, evaluation.phase, evaluation.task) == (False, "ended", "pretrain")
    assert evaluation.evaluation["weights"] == str(tmp_path / "whole" / "step-00000020")
    curves = EventAccumulator(str(tmp_path / "again" / "tensorboard" / "evaluation"))
    curves.Reload()
    [point] = curves.Scalars("retrieval/mean/r_mean")
    mean = evaluation.evaluation["evaluated"]["scores"]["mean"]
    assert point.step == 20 and point.value == pytest.approx(mean) and mean == result["mean"]["r_mean"]


@pytest.mark.slow
def test_an_evaluation_that_was_cut_off_after_its_save_is_made_up_for(config, held_out, tmp_path):
    changes = {"training.max_steps": 6, "training.evaluate_every": 3, "training.save_every": None}
    path = config(evaluation=held_out("en", "de"), **changes)
    run("pretrain", path)
    folder = tmp_path / "run"
    whole = metrics(folder)
    assert [line["step"] for line in whole if "retrieval" in line] == [3, 6]
    shutil.rmtree(folder / "step-00000006")
    shutil.rmtree(folder / "best")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:3]))  # as if it was killed after the save of step 3
    run("pretrain", path)
    assert metrics(folder) == whole
    assert (folder / "best").exists()
    shutil.rmtree(folder / "step-00000006")
    run("pretrain", path)  # what was evaluated is not evaluated again
    assert metrics(folder) == whole


@pytest.mark.slow
@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "Ctrl-C", 130)])
def test_a_signal_to_the_group_saves_and_leaves(config, tmp_path, number, name, code):
    path = config(**{"training.max_steps": 10_000, "training.save_every": None})
    process = start("pretrain", path, preexec_fn=obey_interrupts)
    wait_for_line(tmp_path / "run" / "metrics.jsonl", 3)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    assert "Traceback" not in err
    last = metrics(tmp_path / "run")[-1]["step"]
    assert folders(tmp_path / "run") == [f"step-{last:08d}"]
    assert f"stopped by {name} after step {last}" in out


@pytest.mark.slow
def test_torn_checkpoint_is_reported_and_skipped(config, tmp_path):
    path = config(**{"training.max_steps": 10})
    run("pretrain", path)
    (weights,) = (tmp_path / "run" / "step-00000010").glob("model-*.safetensors")
    before = contents(weights.parent)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    resumed = run("pretrain", path)
    assert "skipped checkpoint" in resumed.stdout
    assert "resuming after step 5" in resumed.stdout
    for name, tensor in contents(weights.parent).items():
        assert equal(tensor, before[name]), name


@pytest.mark.slow
def test_resume_never_moves_the_earlier_run_aside(config, tmp_path):
    path = config(**{"training.max_steps": 5})
    run("pretrain", path)
    run("pretrain", "--resume", "never", path)
    (earlier,) = (tmp_path / "run").glob("earlier-*")
    assert_equal_checkpoints(earlier / "step-00000005", tmp_path / "run" / "step-00000005")
    assert len(metrics(tmp_path / "run")) == 5


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("seed=6", "seed was 5 and is 6"),
        ("data.images.batch_size=4", "data.images.batch_size was 8 and is 4"),
        ("model.text.num_layers=3", "model.text.num_layers was 2 and is 3"),
        ("data.texts=null", "data.texts.batch_size was 8 and is None"),
    ],
)
def test_checkpoint_of_another_run_is_refused(finished, change, sentence):
    failed = run("pretrain", finished, change, code=2)
    assert sentence in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_run_that_goes_on_otherwise_says_so(finished, tmp_path):
    run("pretrain", finished, "optimizer.lr=1e-3", "model.weights=w.th", "training.max_steps=2")
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "going on from step 1 with other settings than it was saved with: " in log
    assert "optimizer.lr 0.002 -> 0.001; training.max_steps 1 -> 2\n" in log
    assert f"model.weights w.th is not used: the run goes on from {tmp_path}/run/step-00000001 (" in log


@pytest.fixture
def finished(config, tmp_path):
    path = config(**{"training.max_steps": 1, "training.save_every": None})
    run("pretrain", path)
    return path


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("data.images.files=[/nowhere/at/all]", "/nowhere/at/all"),
        ("model.text.tokenizer=/nowhere", "tokenizer folder /nowhere does not exist"),
        ("model.text.vocab_size=10", "model.text.vocab_size = 10"),
        ("evaluation={files: {en: /nowhere.json}}", "evaluation.files.en: /nowhere.json does not exist"),
    ],
)
def test_what_is_wrong_is_one_sentence(config, tmp_path, change, sentence):
    failed = run("pretrain", config(), change, code=2)
    assert sentence in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not folders(tmp_path / "run")


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        ({"image_root": "/nowhere"}, "evaluation.image_root"),
        ({"max_tokens": 65}, "evaluation.max_tokens = 65 exceeds model.text.max_positions = 64"),
    ],
)
def test_what_is_wrong_with_the_evaluation_shows_before_training(config, held_out, tmp_path, block, sentence):
    failed = run("pretrain", config(evaluation=held_out("en") | block), code=2)
    assert sentence in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_output_dir_under_a_file(config, held_out, tmp_path):
    (tmp_path / "file").touch()
    path = config(evaluation=held_out("en"))
    for command in (("pretrain", path), ("evaluate", path, "--checkpoint", tmp_path)):
        failed = run(*command, f"output_dir={tmp_path}/file/run", code=2)
        assert f"since {tmp_path}/file is a file" in failed.stderr
        assert "Traceback" not in failed.stderr


@pytest.mark.slow
def test_skipped_records_are_named_in_the_log_and_once_on_stderr(config, tmp_path, world):
    files = sorted((world / "data" / "pretrain" / "image_text").glob("*.jsonl"))
    good = [line for file in files for line in file.read_bytes().splitlines()][:11]
    assert len(good) == 11
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(b"\n".join([*good, b"no JSON"]) + b"\n")
    path = config(**{"training.max_steps": 3, "data.images.files": [str(broken)], "data.regions": None})
    done = run("pretrain", path)
    warning = f"skipped a record of data.images at {broken}:12"
    assert done.stderr.count(warning) == 1
    assert (tmp_path / "run" / "log.txt").read_text().count(warning) == 1


def test_evaluate_without_a_checkpoint(config, held_out, tmp_path):
    path = config(evaluation=held_out("en"))
    failed = run("evaluate", path, "--checkpoint", tmp_path, code=2)
    assert "manifest.json is missing" in failed.stderr
