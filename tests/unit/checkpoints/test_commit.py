"""Commits of one step: attempts that meet, durability, and what is never replaced."""

import dataclasses
import errno
import json
import os
import stat
from contextlib import nullcontext

import pytest

from cclm.checkpoints.commit import OtherRunError, whole_manifest
from cclm.checkpoints.find import open_checkpoint
from cclm.checkpoints.messages import FailureCause, SaveOutcome
from cclm.checkpoints.mirror import Mirror
from cclm.checkpoints.writer import write
from cclm.events import CleanupFailed, SavedByOther
from tests.checkpoint_files import OTHER_RUN, RUN, Save, flip, make_trained, phases, save_trained


@pytest.mark.parametrize("moment", ["model staged", "staged"])
def test_of_two_writers_of_a_step_the_first_to_commit_wins(tmp_path, moment):
    """The winner takes the other's files for leftovers, whenever that is."""
    slow = phases([str(tmp_path)], 5, *make_trained(0), {"who": "slow"})
    for phase in slow:
        if phase == moment:
            break
    fast = save_trained(tmp_path, 5, seed=1)
    assert not any(phase.endswith(": committed") for phase in slow)
    attempt = whole_manifest(str(fast)).attempt
    assert all(attempt in path.name or path.name == "manifest.json" for path in fast.iterdir())
    assert open_checkpoint(fast).state == {"config": {"seed": 1}}


def test_on_a_disk_all_else_is_durable_before_the_manifest(tmp_path, monkeypatch):
    synced, sync = [], os.fsync

    def noted(handle: int) -> None:
        sync(handle)
        synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{handle}"), tmp_path))

    monkeypatch.setattr(os, "fsync", noted)
    folder = save_trained(tmp_path, 5)
    before = set(synced[: next(i for i, name in enumerate(synced) if "manifest.json" in name)])
    files = {f"{folder.name}/{path.name}" for path in folder.iterdir() if path.name != "manifest.json"}
    assert len(files) == 3 and before == files | {folder.name, "."}
    assert synced[-1] == folder.name  # and the manifest's name at last


@pytest.mark.parametrize(
    "what, code, is_saved",
    [("folder", errno.EINVAL, True), ("folder", errno.EIO, False), ("file", errno.EINVAL, False)],
)
def test_only_folders_may_be_beyond_syncing(tmp_path, monkeypatch, what, code, is_saved):
    sync = os.fsync

    def refuse(handle: int) -> None:
        if (what == "folder") == stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, "not here")
        sync(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    with nullcontext() if is_saved else pytest.raises(OSError, match="not here"):
        save_trained(tmp_path, 5)
    assert (tmp_path / "step-00000005" / "manifest.json").exists() == is_saved


def test_another_runs_checkpoint_is_never_replaced(tmp_path):
    theirs = save_trained(tmp_path, 5, run=OTHER_RUN)
    with pytest.raises(OtherRunError, match=f"another run \\({OTHER_RUN}"):
        save_trained(tmp_path, 5)
    assert whole_manifest(str(theirs)).run == OTHER_RUN
    open_checkpoint(theirs)


def test_a_damaged_one_is_replaced_and_leftovers_cleared(tmp_path):
    path = save_trained(tmp_path, 5)
    attempt = whole_manifest(str(path)).attempt
    flip(next(path.glob("model-*")))
    (path / f"model-{RUN}-00000000.safetensors").write_bytes(b"of a writer that died")
    foreign = path / f"model-{OTHER_RUN}-00000000.safetensors"
    foreign.write_bytes(b"of another run")
    save_trained(tmp_path, 5, damaged=(attempt,))
    assert open_checkpoint(path).manifest.attempt != attempt
    assert len(list(path.iterdir())) == 5 and foreign.exists()


def test_what_another_attempt_saved_first_is_reported_with_its_place(tmp_path):
    save_trained(tmp_path, 5)
    save = Save([str(tmp_path)], 5, *make_trained(0), {})
    saved_by_other = []
    for _ in write(save.request, save.setup, saved_by_other, Mirror("", [])):
        pass
    save.close()
    assert saved_by_other == [SavedByOther(5, str(tmp_path))]


def test_the_size_is_that_of_the_files_which_the_manifest_names(tmp_path):
    """So the log, the metric and `cclm status`, which adds up the manifest, say the same."""
    save, sizes = Save([str(tmp_path)], 5, *make_trained(0), {}), []

    def written():
        sizes.append((yield from write(save.request, save.setup, [], Mirror("", []))))

    for _ in written():
        pass
    save.close()
    checkpoint = open_checkpoint(tmp_path / "step-00000005")
    assert sizes == [checkpoint.size]
    assert checkpoint.size == sum(
        file.stat().st_size for file in (tmp_path / "step-00000005").iterdir() if file.name != "manifest.json"
    )


def test_metrics_are_in_a_place_before_the_checkpoint_is(tmp_path):
    """A machine that dies now takes no line along that the run, which goes on from here, would not write again."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "metrics.jsonl").write_text('{"step": 5}\n')
    mirror = Mirror(str(here), [str(there)])
    mirror.names = {"metrics.jsonl"}
    save = Save([str(here), str(there)], 5, *make_trained(0), {})
    sent_at_commit = [
        (there / "metrics.jsonl").exists()
        for phase in write(save.request, save.setup, [], mirror)
        if phase.startswith(f"{there}: ")
    ]
    save.close()
    assert len(sent_at_commit) > 1 and all(sent_at_commit)


def test_an_outcome_reaches_the_training_process_as_it_was():
    outcome = SaveOutcome(
        5,
        "a, b",
        error="full",
        cause=FailureCause.USER,
        saved_by_other=[SavedByOther(5, "a"), SavedByOther(5)],
        cleanup_failures=[CleanupFailed("a", "OSError: no", is_place=True)],
    )
    assert SaveOutcome.from_json(json.loads(json.dumps(dataclasses.asdict(outcome)))) == outcome
