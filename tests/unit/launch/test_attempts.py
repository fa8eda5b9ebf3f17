"""Attempts are counted over processes, and only what got no further counts."""

import json
import tempfile

import pytest

from cclm import storage
from cclm.events import Journal
from cclm.launch.attempts import Attempts, AttemptsExhausted
from cclm.launch.causes import Cause, Failure
from cclm.launch.launcher import _settle_attempts


def attempts(folder, run_id="job", limit=3) -> Attempts:
    return Attempts([str(folder)], "pretrain", run_id, limit)


def checkpoint(folder, step: int) -> None:
    (folder / f"step-{step:08d}").mkdir()
    (folder / f"step-{step:08d}" / "manifest.json").touch()


def test_it_gives_up_after_so_many_starts_without_a_newer_checkpoint(tmp_path):
    assert [attempts(tmp_path).begin() for _ in range(3)] == [1, 2, 3]
    with pytest.raises(AttemptsExhausted, match="3 attempts in a row got no further than any checkpoint"):
        attempts(tmp_path).begin()
    with pytest.raises(AttemptsExhausted):  # other nodes, and a scheduler that does not listen, get the same answer
        attempts(tmp_path).begin()
    assert attempts(tmp_path, limit=4).begin() == 4
    assert attempts(tmp_path, run_id="next job").begin() == 1


def test_progress_starts_the_count_anew_but_a_folder_without_manifest_is_none(tmp_path):
    assert [attempts(tmp_path).begin() for _ in range(3)] == [1, 2, 3]
    checkpoint(tmp_path, 10)
    (tmp_path / "step-00000020").mkdir()
    assert [attempts(tmp_path).begin() for _ in range(3)] == [1, 2, 3]
    with pytest.raises(AttemptsExhausted, match="the checkpoint of step 10"):
        attempts(tmp_path).begin()


def test_steps_of_what_trains_one_after_another_add_up(tmp_path):
    """The second training has far fewer steps than the first."""
    later = tmp_path / "nlvr_ft"
    later.mkdir()

    def both() -> Attempts:
        return Attempts([str(tmp_path)], "run", "job", 2, later_folders=[[str(later)]])

    checkpoint(tmp_path, 900)
    assert [both().begin() for _ in range(2)] == [1, 2]
    checkpoint(later, 10)
    assert [both().begin() for _ in range(2)] == [1, 2]
    with pytest.raises(AttemptsExhausted, match="no further than checkpoints of 910 steps in all"):
        both().begin()


def test_stops_from_outside_and_success_do_not_count(tmp_path):
    mine = attempts(tmp_path)
    for _ in range(5):
        assert mine.begin() == 1
        mine.take_back()
    mine.begin()
    mine.begin()
    mine.reset()
    assert mine.begin() == 1


def test_losses_of_nodes_do_not_count_but_are_bounded(tmp_path):
    """Ten times as many as attempts: here the run may be what its nodes die of."""
    for _ in range(30):
        assert attempts(tmp_path).begin() == 1
        attempts(tmp_path).take_back(is_loss=True)
    checkpoint(tmp_path, 10)
    for _ in range(31):
        assert attempts(tmp_path).begin() == 1
        attempts(tmp_path).take_back(is_loss=True)
    with pytest.raises(AttemptsExhausted, match=r"^31 starts in a row, each .* no further than the checkpoint of step"):
        attempts(tmp_path).begin()
    checkpoint(tmp_path, 20)
    assert attempts(tmp_path).begin() == 1


def test_starts_are_bounded_while_the_store_is_away(tmp_path, monkeypatch):
    def away(url: str) -> bytes:
        raise storage.StoreUnavailable(f"{url} does not answer")

    mine = Attempts([str(tmp_path), "memory://away"], "pretrain", "job", 3)
    with monkeypatch.context() as outage:
        outage.setattr(
            storage, "read_bytes", lambda url, read=storage.read_bytes: (away if "://" in url else read)(url)
        )
        for _ in range(3):
            with pytest.raises(storage.StoreUnavailable):
                mine.begin()
        with pytest.raises(
            AttemptsExhausted, match=rf"^memory://away.* does not answer; 3 .* delete {tmp_path}/attempts"
        ):
            mine.begin()
        checkpoint(tmp_path, 10)
        with pytest.raises(storage.StoreUnavailable):
            mine.begin()
    assert mine.begin() == 1


def test_starts_are_bounded_while_the_store_is_away_and_all_places_are_in_stores(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def away(url: str) -> bytes:
        raise storage.StoreUnavailable(f"{url} does not answer")

    def with_outage(starts: int) -> None:
        with monkeypatch.context() as outage:
            outage.setattr(
                storage, "read_bytes", lambda url, read=storage.read_bytes: (away if "://" in url else read)(url)
            )
            for _ in range(starts):
                with pytest.raises(storage.StoreUnavailable):
                    mine.begin()
            if starts == 3:
                with pytest.raises(AttemptsExhausted, match=rf"^memory://.* not answer; 3 .* delete {tmp_path}/cclm-"):
                    mine.begin()

    mine = Attempts([f"memory://{tmp_path}"], "pretrain", "job", 3)
    with_outage(2)
    assert mine.begin() == 1  # it answers: the next outage is counted anew
    with_outage(3)
    other = Attempts([f"memory://{tmp_path}/other"], "pretrain", "job", 3)
    assert (other.begin(), mine.begin()) == (1, 2)


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"run_id": "job", "step": "x", "attempts": 1})])
def test_a_count_that_cannot_be_read_stops_nothing(tmp_path, content):
    (tmp_path / "attempts-pretrain.json").write_text(content)
    assert attempts(tmp_path).begin() == 1


@pytest.mark.parametrize(("cause", "counted"), [(Cause.USER_ERROR, 1), (Cause.BUG, 2)])
def test_mistakes_use_up_no_attempt_and_bugs_do(tmp_path, cause, counted):
    mine = attempts(tmp_path)
    mine.begin()
    _settle_attempts(mine, Failure(cause, "why"), Journal())
    assert mine.begin() == counted


@pytest.mark.parametrize("job", ["job", "another job"])
def test_a_start_in_the_folder_of_a_living_run_leaves_its_count(tmp_path, job):
    attempts(tmp_path).begin()
    attempts(tmp_path).begin()
    count = (tmp_path / "attempts-pretrain.json").read_text()
    second = Attempts([str(tmp_path)], "pretrain", job, 3, is_folder_taken=lambda: True)
    assert second.begin() == (3 if job == "job" else 1)
    _settle_attempts(second, Failure(Cause.USER_ERROR, "the folder is in use"), Journal())
    _settle_attempts(second, Failure(Cause.KILLED, "why"), Journal())
    assert (tmp_path / "attempts-pretrain.json").read_text() == count
    assert [path.name for path in tmp_path.iterdir()] == ["attempts-pretrain.json"]


@pytest.mark.parametrize(("cause", "counted"), [(Cause.KILLED, 3), (Cause.PREEMPTED, 2)])
def test_a_start_that_took_over_is_counted_at_its_end(tmp_path, cause, counted):
    """The run before was still in the folder when this one began, and has left it since."""
    attempts(tmp_path).begin()
    is_taken = [True]
    mine = Attempts([str(tmp_path)], "pretrain", "job", 5, is_folder_taken=lambda: is_taken[0])
    mine.begin()
    is_taken[0] = False
    _settle_attempts(mine, Failure(cause, "why"), Journal())
    assert attempts(tmp_path).begin() == counted


def test_each_change_of_the_count_is_an_event(tmp_path):
    class Counts(list):
        def handle(self, event):
            self.append((event.attempts, event.max_attempts, event.step))

    counts, mine = Counts(), attempts(tmp_path)
    checkpoint(tmp_path, 10)
    mine.begin()
    mine.begin()
    _settle_attempts(mine, Failure(Cause.PREEMPTED, "why"), Journal([counts]))
    _settle_attempts(mine, Failure(Cause.BUG, "why"), Journal([counts]))
    _settle_attempts(mine, None, Journal([counts]))
    assert counts == [(1, 3, 10), (0, 3, 10)]
