"""Where a run goes on, and what is set aside for it."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from cclm.checkpoints import find
from cclm.checkpoints.commit import whole_manifest
from cclm.checkpoints.find import open_checkpoint
from cclm.checkpoints.manifest import TornCheckpointError
from cclm.checkpoints.retention import checkpoint_steps
from cclm.errors import UserError
from cclm.events import Journal, SavedByOther
from cclm.metrics.metrics_file import METRICS
from cclm.metrics.sentences import Sentences
from cclm.training.run import Built, RunContext, _started
from cclm.training.saving import Saving
from tests.checkpoint_files import RUN, Output, flip, make_trained, run_steps, save_trained


def test_a_run_keeps_its_name_before_its_first_checkpoint(tmp_path):
    """A writer that outlives the first start commits beside the second: it must not be taken for another run's."""
    output = Output(str(tmp_path / "near"), str(tmp_path / "far"))
    names = []
    for _ in range(2):
        saving = Saving(output, Journal())
        assert saving.find_start("auto") is None
        names.append(saving._lineage.run)
    assert names[0] == names[1]
    assert Saving(output, Journal()).find_start("never") is None
    fresh = Saving(output, Journal())
    assert fresh.find_start("auto") is None and fresh._lineage.run != names[0]


def test_what_another_process_saves_while_a_start_reads_is_ahead_and_not_damaged(tmp_path, monkeypatch):
    """A machine is cut off and trains on, while its replacement starts. The replacement replaces nothing of it."""
    near, far = tmp_path / "near", tmp_path / "far"
    save_trained(far, 5)
    read = find.check_contents

    def read_slowly(folder, manifest):
        read(folder, manifest)
        if manifest.step == 5:
            save_trained(far, 10)
            (far / METRICS).write_text('{"step": 10}\n')

    monkeypatch.setattr(find, "check_contents", read_slowly)
    events = []
    saving = Saving(Output(str(near), str(far)), Journal([SimpleNamespace(handle=events.append)]))
    assert saving.find_start("auto").step == 5
    (near / METRICS).write_text('{"step": 8}\n')
    with saving:
        saving.save(8, *make_trained(1), {})
    assert SavedByOther(8, str(far)) in events
    assert checkpoint_steps(str(far)) == [10, 5]
    assert (far / METRICS).read_text() == '{"step": 10}\n'


def test_what_a_run_goes_on_from_has_a_size_and_a_time(tmp_path):
    folder = save_trained(tmp_path, 5)
    saving = Saving(Output(str(tmp_path)), Journal())
    start = saving.find_start("auto")
    checkpoint = start.checkpoint
    manifest = folder / "manifest.json"
    assert checkpoint.size == sum(path.stat().st_size for path in folder.iterdir() if path != manifest)
    assert checkpoint.saved_time() == manifest.stat().st_mtime
    config = SimpleNamespace(task="pretrain", output_dir=str(tmp_path), output_hdfs=None)
    recipe = SimpleNamespace(config=config, course=SimpleNamespace(total_steps=9, sources={}, description=""))
    model = torch.nn.Linear(1, 1)
    event = _started(recipe, RunContext(torch.device("cpu"), Journal(), saving), Built(model, model), start)
    assert (event.step, event.checkpoint_bytes) == (5, checkpoint.size)
    assert event.checkpoint_time == checkpoint.saved_time()
    shutil.rmtree(folder)
    assert checkpoint.saved_time() is None


def test_never_sets_aside(tmp_path):
    save_trained(tmp_path, 5)
    assert Saving(Output(str(tmp_path)), Journal()).find_start("never") is None
    (earlier,) = tmp_path.glob("earlier-*")
    open_checkpoint(earlier / "step-00000005")


@pytest.mark.parametrize("variable", ["CCLM_JOB_ID", "TORCHELASTIC_RUN_ID"])
def test_never_is_obeyed_once_a_job(tmp_path, monkeypatch, variable):
    """torchrun counts no restart where members change, and a scheduler's retry begins at 0."""
    output = Output(str(tmp_path / "near"), str(tmp_path / "far"))
    save_trained(tmp_path / "near", 5)
    for job, expected in (("first", None), ("first", 5), ("second", None)):
        monkeypatch.setenv(variable, job)
        start = Saving(output, Journal()).find_start("never")
        assert (start and start.step) == expected, job
        if start is None:
            save_trained(tmp_path / "near", 5)
    monkeypatch.setenv(variable, "none")
    with pytest.raises(UserError, match="^--resume never: without a name of the job, .* give --rdzv-id NAME"):
        Saving(output, Journal()).find_start("never")
    assert checkpoint_steps(str(tmp_path / "near")) == [5]


def test_never_is_obeyed_although_the_first_start_died_before_it(tmp_path, monkeypatch):
    save_trained(tmp_path, 5)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    assert Saving(Output(str(tmp_path)), Journal()).find_start("never") is None


def test_from_a_folder_once_and_from_ones_own_after_that(tmp_path):
    save_trained(tmp_path / "first", 5)
    source = str(tmp_path / "first" / "step-00000005")
    output = Output(str(tmp_path / "second"))
    model, optimizer = make_trained(0)
    for expected in (5, 6):
        saving = Saving(output, Journal())
        start = saving.find_start(source)
        assert start.step == expected
        with saving:
            run_steps(saving, model, optimizer, (start.step + 1,))
    runs = {whole_manifest(str(path)).run for path in (tmp_path / "second").glob("step-*")}
    assert len(runs) == 1 and RUN not in runs
    assert checkpoint_steps(str(tmp_path / "first")) == [5]


def test_going_back_in_ones_own_folder(tmp_path):
    for step in (5, 10):
        save_trained(tmp_path, step)
    saving = Saving(Output(str(tmp_path)), Journal())
    start = saving.find_start(str(tmp_path / "step-00000005"))
    assert start.step == 5
    assert checkpoint_steps(str(tmp_path)) == [10, 5]  # nothing moves before the checkpoint fits
    with pytest.raises(UserError):
        saving.restore(start, torch.nn.Linear(2, 2), make_trained(0)[1])
    assert checkpoint_steps(str(tmp_path)) == [10, 5]
    saving.restore(start, *make_trained(0))
    assert checkpoint_steps(str(tmp_path)) == [5]
    (earlier,) = tmp_path.glob("earlier-*")
    assert checkpoint_steps(str(earlier)) == [10]


def test_weights_alone_are_no_place_to_go_on_from(tmp_path):
    saving = Saving(Output(str(tmp_path)), Journal())
    saving.find_start("auto")
    model, optimizer = make_trained(0)
    with saving:
        saving.save(5, model, optimizer, {})
        saving.save_best(5, model, {}, 0.5)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError, match="holds weights only.*model.weights.*--checkpoint"):
        Saving(Output(str(tmp_path)), Journal()).find_start(str(tmp_path / "best"))
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("resume", "advice"), [("nevr", "did you mean never?"), ("output/nowhere", "give one, as output/demo or ")]
)
def test_resume_that_names_nothing(tmp_path, resume, advice):
    with pytest.raises(UserError) as refused:
        Saving(Output(str(tmp_path)), Journal()).find_start(resume)
    sentence = (
        f"--resume {resume} is neither auto nor never, nor the folder of a checkpoint or run that exists; {advice}"
    )
    assert str(refused.value).startswith(sentence)


def test_after_a_failed_save_of_the_best_lower_scores_count_that_beat_what_is_there(tmp_path):
    saving = Saving(Output(str(tmp_path)), Journal())
    saving.find_start("auto")
    model, _ = make_trained(0)
    (tmp_path / "best").write_text("in the way")
    with saving:
        saving.save_if_best(1, model, {}, 0.9)
        while saving.last is None:
            saving.poll()
        (tmp_path / "best").unlink()
        saving.save_if_best(2, model, {}, 0.4)
        saving.save_if_best(3, model, {}, 0.3)
        assert saving.best().step == 2


def test_all_torn_is_an_error_and_a_save_that_never_ended_is_none(tmp_path):
    path = save_trained(tmp_path, 5)
    flip(next(path.glob("model-*")))
    with pytest.raises(UserError, match="no checkpoint in .* is whole .*--resume never"):
        Saving(Output(str(tmp_path)), Journal()).find_start("auto")
    (path / "manifest.json").unlink()
    assert Saving(Output(str(tmp_path)), Journal()).find_start("auto") is None
    with pytest.raises(TornCheckpointError):
        open_checkpoint(path)


@pytest.mark.parametrize("home", ["near", "near/far"])
def test_of_places_within_each_other_the_one_that_holds_the_checkpoint_is_its_home(tmp_path, home):
    output = Output(str(tmp_path / "near"), str(tmp_path / "near" / "far"))
    (tmp_path / "near" / "far").mkdir(parents=True)
    save_trained(tmp_path / home, 5)
    for folder in ("near", "near/far"):
        (tmp_path / folder / "log.txt").write_text("long, of its home" if folder == home else "short")
    saving = Saving(output, Journal())
    assert saving.find_start("auto").step == 5
    assert saving.folder == tmp_path / "near"
    assert (saving.folder / "log.txt").read_text() == "long, of its home"


def test_the_wait_for_the_save_of_an_earlier_start_is_said(tmp_path, monkeypatch):
    lines, waits = [], []
    monkeypatch.setattr("cclm.training.saving.take_lock", lambda lock, seconds=60.0: waits.append(seconds) or False)
    Saving(Output(str(tmp_path)), Journal([Sentences(lines.append)])).find_start("auto")
    assert waits == [1.0, 60.0]
    assert "an earlier start still saves to" in lines[0] and "going on beside it" in lines[1]
