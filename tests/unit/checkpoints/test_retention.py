"""Which checkpoints are deleted after a save, and what a deletion that fails leaves behind."""

import os
import time

import pytest

from cclm import storage
from cclm.checkpoints.commit import whole_manifest
from cclm.checkpoints.find import newest_checkpoint
from cclm.checkpoints.retention import Retention, checkpoint_steps, keep_only, prune
from cclm.events import CleanupFailed
from tests.checkpoint_files import OTHER_RUN, RUN, flip, save_trained


def test_last_ones_and_every_nth_stay_and_no_other_runs_are_touched(tmp_path):
    for step in (10, 20, 30, 40, 50, 60):
        save_trained(tmp_path, step)
    save_trained(tmp_path, 35, run=OTHER_RUN)
    prune(str(tmp_path), RUN, Retention(keep_last=2, keep_every=20), pytest.fail)
    assert checkpoint_steps(str(tmp_path)) == [60, 50, 40, 35, 20]
    assert not (tmp_path / "step-00000010").exists()


def test_the_one_resumed_from_stays_until_a_newer_one_is_verified(tmp_path):
    for step in (10, 20, 30):
        save_trained(tmp_path, step)
    for step in (20, 30):
        flip(next((tmp_path / f"step-{step:08d}").glob("model-*")))
    rule = Retention(keep_last=1, resumed_from=10)
    rule = prune(str(tmp_path), RUN, rule, pytest.fail)
    assert 10 in checkpoint_steps(str(tmp_path)) and rule.resumed_from == 10
    save_trained(tmp_path, 40)
    rule = prune(str(tmp_path), RUN, rule, pytest.fail)
    assert rule.resumed_from is None
    prune(str(tmp_path), RUN, rule, pytest.fail)
    assert 10 not in checkpoint_steps(str(tmp_path))


def test_torn_ones_do_not_count_as_kept(tmp_path):
    for step in (5, 10, 20, 30):
        save_trained(tmp_path, step)
    for step in (5, 20, 30):
        (tmp_path / f"step-{step:08d}" / "manifest.json").unlink()
    prune(str(tmp_path), RUN, Retention(keep_last=1), pytest.fail)
    assert checkpoint_steps(str(tmp_path)) == [30, 20, 10]  # that of step 5 never ended and lies behind a whole one
    assert newest_checkpoint([tmp_path], lambda _: None).step == 10


def test_a_save_that_ends_while_it_is_taken_for_dead_leaves_no_torn_checkpoint(tmp_path, monkeypatch):
    """Its writer lives, on a machine that was cut off, and commits in the midst of the deletion."""
    for step in (10, 20):
        save_trained(tmp_path, step)
    manifest = tmp_path / "step-00000010" / "manifest.json"
    text, delete = manifest.read_text(), storage.delete
    manifest.unlink()

    def commit_and_delete(url: str) -> None:
        if not manifest.exists() and not storage.name(url) == manifest.name:
            manifest.write_text(text)
        delete(url)

    monkeypatch.setattr(storage, "delete", commit_and_delete)
    prune(str(tmp_path), RUN, Retention(keep_last=1), pytest.fail)
    assert checkpoint_steps(str(tmp_path)) == [20]


def test_deletion_goes_by_the_manifest_first_and_only_warns(tmp_path, monkeypatch):
    for step in (10, 20):
        save_trained(tmp_path, step)
    deleted = []

    def refuse(url: str) -> None:
        deleted.append(storage.name(url))
        raise PermissionError("not yours")

    monkeypatch.setattr(storage, "delete", refuse)
    failures = []
    prune(str(tmp_path), RUN, Retention(keep_last=1), failures.append)
    assert deleted == ["manifest.json"]
    assert failures == [CleanupFailed(str(tmp_path / "step-00000010"), "PermissionError: not yours")]
    assert whole_manifest(str(tmp_path / "step-00000010")).step == 10


def test_a_new_best_replaces_the_old_one_whatever_their_steps(tmp_path):
    for step in (10, 20, 30, 40):
        save_trained(tmp_path, step)
    for step in (20, 40):
        (tmp_path / f"step-{step:08d}" / "manifest.json").unlink()  # a save that never ended is in nobody's way
    keep_only(str(tmp_path), RUN, 10, pytest.fail)
    assert checkpoint_steps(str(tmp_path)) == [10]


def test_a_store_that_is_away_when_old_ones_go_takes_back_no_save(tmp_path, monkeypatch):
    places = [save_trained(tmp_path, step).parent for step in (10, 20)]

    def refuse(url: str) -> None:
        if url == str(places[0]):
            raise storage.StoreUnavailable("away")
        return entries(url)

    entries = storage.list_entries
    monkeypatch.setattr(storage, "list_entries", refuse)
    rule, failures = Retention(keep_last=1, resumed_from=5), []
    assert prune(str(tmp_path), RUN, rule, failures.append) == rule
    keep_only(str(tmp_path), RUN, 20, failures.append)
    assert failures == [CleanupFailed(str(tmp_path), "StoreUnavailable: away", is_place=True)] * 2


def test_clocks_play_no_part(tmp_path, monkeypatch):
    """The machine's time jumps back between saves, and files look younger than later ones."""
    for step in (1, 2, 3):
        monkeypatch.setattr(time, "time", lambda step=step: 2e9 - 1e6 * step)
        folder = save_trained(tmp_path, step)
        for path in (*folder.iterdir(), folder):
            os.utime(path, (2e9 - 1e6 * step,) * 2)
    assert newest_checkpoint([tmp_path], pytest.fail).step == 3
    prune(str(tmp_path), RUN, Retention(keep_last=1), pytest.fail)
    assert checkpoint_steps(str(tmp_path)) == [3]
