"""Places of a run: what is saved there, where the run goes on, and what waits for the writer."""

import os
import re
import signal
import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from cclm import distributed, storage
from cclm.checkpoints.find import newest_checkpoint, open_checkpoint
from cclm.checkpoints.messages import FailureCause
from cclm.checkpoints.process import WriterProcess
from cclm.checkpoints.retention import checkpoint_steps
from cclm.checkpoints.snapshot import Snapshot
from cclm.config.output import CheckpointConfig
from cclm.errors import UserError
from cclm.events import Journal, PhaseChanged, Saved
from cclm.metrics.sentences import Sentences
from cclm.training.saving import Saving
from tests.checkpoint_files import Output, Save, flip, make_trained, run_steps, save_trained


def test_damaged_newer_ones_never_push_out_what_is_saved_after_them(tmp_path):
    """Through the real writer: with a byte flipped in step 30, the run goes on from 20 and must keep what it saves."""
    output = Output(str(tmp_path), checkpoints=CheckpointConfig(keep_last=1))
    for step in (20, 30):
        save_trained(tmp_path, step)
    flip(next((tmp_path / "step-00000030").glob("model-*")))
    saving = Saving(output, Journal())
    start = saving.find_start("auto")
    assert start.step == 20
    trained = make_trained(1)
    with saving:
        for step in (22, 24, 26):
            saving.save(step, *trained, {})
    assert newest_checkpoint([str(tmp_path)], lambda _: None).step == 26


@pytest.mark.parametrize("ask", [Saving.poll, Saving.best])
def test_a_last_save_that_failed_is_not_forgotten_once_it_was_reported(tmp_path, ask):
    saving = Saving(Output(str(tmp_path)), Journal())
    saving.find_start("auto")
    (tmp_path / "step-00000010").write_text("in the way")
    with pytest.raises(UserError, match="step 10 cannot be written"), saving:
        saving.save(10, *make_trained(1), {})
        while saving.last is None:
            ask(saving)


@pytest.fixture
def stopped_writer(tmp_path):
    """A run whose writer stands still."""
    saving = Saving(Output(str(tmp_path)), Journal())
    saving.find_start("auto")
    with saving:
        os.kill(saving._open_writer().pid, signal.SIGSTOP)
        yield saving
        if saving._writer is not None:
            os.kill(saving._writer.pid, signal.SIGCONT)


def test_the_best_is_the_one_asked_for_last_even_if_it_is_still_being_written(stopped_writer):
    threading.Timer(0.5, os.kill, (stopped_writer._writer.pid, signal.SIGCONT)).start()
    stopped_writer.save_best(4, make_trained(0)[0], {}, score=0.5)
    assert stopped_writer.best().step == 4


def test_whatever_waits_for_the_writer_waits_where_the_other_processes_do(stopped_writer, monkeypatch):
    """Else a long upload is a hung collective to them."""
    waits, inside, is_last = [], [False], False

    @contextmanager
    def others_wait():
        inside.append(True)
        yield
        inside.pop()

    def noted(self, *, wait):
        if not wait:
            return outcomes(self, wait=False)
        waits.append(inside[-1])
        os.kill(self.pid, signal.SIGCONT)
        received = outcomes(self, wait=True)
        if not is_last:
            os.kill(self.pid, signal.SIGSTOP)  # the next one has to wait, too
        return received

    outcomes = WriterProcess.outcomes
    monkeypatch.setattr(WriterProcess, "outcomes", noted)
    monkeypatch.setattr(distributed, "others_wait", others_wait)
    model, optimizer = make_trained(0)
    for wait in (
        lambda: [stopped_writer.save(step, model, optimizer, {}) for step in (1, 2)],
        lambda: stopped_writer.save_best(3, model, {}, score=0.5),
        stopped_writer.best,
        stopped_writer.close,
    ):
        is_last = wait == stopped_writer.close
        waits.clear()
        wait()
        assert waits and all(waits)


def test_the_writer_gives_way_to_the_loop(tmp_path):
    saving = Saving(Output(str(tmp_path)), Journal())
    saving.find_start("auto")
    with saving:
        pid = saving._open_writer().pid
        expected = (min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10), os.SCHED_BATCH)
        deadline = time.monotonic() + 120
        while (found := (os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid))) != expected:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)


def test_a_save_says_whether_it_is_the_best_model_and_how_long_it_held_up_training(tmp_path, monkeypatch):
    """A copy to memory takes 8 s by this clock. The best model of the same step is in the snapshot already."""
    saved: list[Saved] = []

    class Saves:
        def handle(self, event):
            if isinstance(event, Saved):
                saved.append(event)

    copies = Snapshot.take
    clock = [0.0]
    monkeypatch.setattr("cclm.training.saving.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def take(self, tensors):
        clock[0] += 8
        copies(self, tensors)

    monkeypatch.setattr(Snapshot, "take", take)
    saving = Saving(Output(str(tmp_path / "near"), str(tmp_path / "far")), Journal([Saves()]))
    saving.find_start("auto")
    model, optimizer = make_trained(0)
    with saving:
        saving.save(1, model, optimizer, {})
        saving.save_best(1, model, {}, score=0.5)
        saving.save_best(2, model, {}, score=0.6)
    near, far = tmp_path / "near", tmp_path / "far"
    assert [(each.step, each.place, each.is_best, each.held_up_seconds) for each in saved] == [
        (1, f"{near}, {far}", False, 8.0), (1, f"{near}/best, {far}/best", True, 0.0),
        (2, f"{near}/best, {far}/best", True, 8.0),
    ]  # fmt: skip


def test_every_process_says_in_the_end_that_it_has_ended(tmp_path, monkeypatch):
    """Each pod shows the phase of its own first process, and keeps what it shows only after `ended`."""
    for rank in (0, 1):
        phases = []
        sink = SimpleNamespace(handle=lambda event, to=phases: to.append(event))
        monkeypatch.setattr(distributed, "rank", lambda number=rank: number)
        with Saving(Output(str(tmp_path)), Journal([sink])) as saving:
            if rank == 0:
                saving.find_start("auto")
            saving.publish("log.txt")
        assert phases[-1:] == [PhaseChanged("ended")], rank


# ---------------------------------------------------------------------------------------------------- whole savings


def test_a_run_in_two_places_goes_on_from_either(tmp_path):
    output = Output(str(tmp_path / "near"), str(tmp_path / "far"))
    lines = []
    saving = Saving(output, Journal([Sentences(lines.append)]))
    assert saving.find_start("auto") is None
    model, optimizer = make_trained(0)
    with saving:
        (saving.folder / "log.txt").write_text("first\n")
        run_steps(saving, model, optimizer, (1, 2, 3))
        saving.save_best(3, model, {"step": 3}, score=0.5)
        (saving.folder / "predictions").mkdir()
        (saving.folder / "predictions" / "en.json").write_text("[]")
        saving.publish("predictions/*.json")
    for place in (tmp_path / "near", tmp_path / "far"):
        assert checkpoint_steps(str(place)) == [3, 2]
        assert (place / "log.txt").read_text() == "first\n"
        assert (place / "predictions" / "en.json").exists()
        best = open_checkpoint(place / "best" / "step-00000003")
        assert best.manifest.score == 0.5 and set(best.manifest.files) == {"model", "state"}

    # Another node: nothing near. Then: the newest far is damaged, so the one before.
    for damage, expected in (("near", 3), ("far", 2)):
        if damage == "near":
            (tmp_path / "near").rename(tmp_path / "gone")
        else:
            flip(next((tmp_path / "far" / "step-00000003").glob("optimizer-*")))
        again = Saving(output, Journal([Sentences(lines.append)]))
        start = again.find_start("auto")
        assert (start.step, start.state["step"]) == (expected, expected)
        assert (again.folder / "log.txt").read_text() == "first\n"
    assert any("skipped checkpoint" in line and "optimizer" in line for line in lines)
    other, other_optimizer = make_trained(1)
    again.restore(start, other, other_optimizer)
    with again:
        run_steps(again, other, other_optimizer, (3,))
    assert again.committed == 3
    mine, theirs = (open_checkpoint(tmp_path / root / "step-00000003") for root in ("far", "gone"))
    assert mine.manifest.run == theirs.manifest.run and mine.manifest.attempt != theirs.manifest.attempt
    for role in ("model", "optimizer"):
        assert mine.file(role).read_bytes() == theirs.file(role).read_bytes()
    assert again.best().step == 3


def test_the_best_is_the_best_over_restarts(tmp_path):
    model, optimizer = make_trained(0)
    for scores, best in (((0.3, 0.5, 0.4), 2), ((0.45, 0.5), 2), ((0.6,), 6)):
        saving = Saving(Output(str(tmp_path)), Journal())
        start = saving.find_start("auto")
        begin = 0 if start is None else start.step
        with saving:
            for step, score in enumerate(scores, begin + 1):
                saving.save(step, model, optimizer, {})
                saving.save_if_best(step, model, {}, score)
        assert checkpoint_steps(str(tmp_path / "best")) == [best]


def test_a_writer_that_is_killed_costs_one_save(tmp_path):
    lines = []
    saving = Saving(Output(str(tmp_path)), Journal([Sentences(lines.append)]))
    saving.find_start("auto")
    model, optimizer = make_trained(0)
    with saving:
        saving.publish("log.txt")  # starts it
        os.kill(saving._writer.pid, signal.SIGSTOP)  # so that the kill finds it with work to do
        run_steps(saving, model, optimizer, (1,))
        os.kill(saving._writer.pid, signal.SIGKILL)
        run_steps(saving, model, optimizer, (3,))
    assert saving.committed == 3 and open_checkpoint(tmp_path / "step-00000003")
    assert any("ended with code -9" in line and "failure 1 of 3 in a row" in line for line in lines)


def test_a_start_waits_for_the_save_that_an_earlier_one_left_under_way(tmp_path):
    """Also where the writer of that one had only been started."""
    first = Saving(Output(str(tmp_path)), Journal())
    first.find_start("auto")
    first.publish("log.txt")  # starts the writer
    os.kill(first._writer.pid, signal.SIGSTOP)
    run_steps(first, *make_trained(0), (1,))
    first._writer._process.stdin.close()  # as when the training process dies
    threading.Timer(0.5, os.kill, (first._writer.pid, signal.SIGCONT)).start()
    assert Saving(Output(str(tmp_path)), Journal()).find_start("auto").step == 1


def test_saves_that_fail_in_a_row_end_the_run_and_leave_the_last_good_one(tmp_path):
    saving = Saving(Output(str(tmp_path), checkpoints=CheckpointConfig(max_failed_saves=2)), Journal())
    saving.find_start("auto")
    model, optimizer = make_trained(0)
    run_steps(saving, model, optimizer, (1,))
    for step in (2, 3, 4):  # no folders can be made where files are
        (tmp_path / f"step-{step:08d}").write_text("in the way")
    with pytest.raises(UserError, match="checkpoint of step 3 cannot be written"), saving:
        run_steps(saving, model, optimizer, (2, 3, 4))
    assert newest_checkpoint([tmp_path], pytest.fail).step == 1


def test_a_log_that_is_elsewhere_is_gone_on_with(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "log.txt").write_text("before\n")
    with Saving(Output(str(tmp_path / "near"), str(tmp_path / "far")), Journal()) as saving:
        with (saving.folder / "log.txt").open("a") as log:
            log.write("after\n")
        saving.publish("log.txt")
    assert (tmp_path / "far" / "log.txt").read_text() == "before\nafter\n"


def test_the_last_save_waits_no_longer_for_a_store_once_the_run_has_to_leave(tmp_path, monkeypatch):
    """The writer was started with a patience that would outlast any scheduler's."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("FSSPEC_S3", '{"key": "k", "secret": "s"}')
        monkeypatch.setenv(storage.PATIENCE, "60")
        save = Save([str(tmp_path), "s3://bucket/run"], 5, *make_trained(0), {})
        writer = WriterProcess(save.setup)
        writer.save(save.request)
        writer.hurry()
        [outcome] = writer.outcomes(wait=True)
        writer.close()
        save.close()
    assert outcome.cause is FailureCause.UNAVAILABLE
    assert re.search(r"did not answer for \d s ", outcome.error), outcome.error
    assert newest_checkpoint([str(tmp_path)], pytest.fail).step == 5
