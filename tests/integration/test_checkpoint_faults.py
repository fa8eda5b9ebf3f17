"""The fault table of checkpoints, on real stores: nothing is lost but the steps since the last commit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from cclm import storage
from cclm.checkpoints.commit import whole_manifest
from cclm.checkpoints.find import newest_checkpoint, open_checkpoint
from cclm.checkpoints.manifest import folder_name
from cclm.checkpoints.retention import checkpoint_steps
from cclm.config.output import CheckpointConfig
from cclm.events import Journal
from cclm.metrics.sentences import Sentences
from cclm.training.saving import Saving
from tests.checkpoint_files import Save, make_trained, save_trained
from tests.dying_writer import died, start

from .conftest import metrics
from .conftest import start as run_command
from .kill_ranks import SAVE_EVERY, STEPS
from .run_output import Output
from .test_launch import SMALL
from .test_pretrain import wait_for_line

pytestmark = pytest.mark.slow


def newest(*places: str) -> int | None:
    found = newest_checkpoint(places, lambda _: None)
    return None if found is None else found.step


@pytest.mark.parametrize("second", [False, True], ids=["one-place", "second-place"])
def test_sigkill_of_the_writer_at_every_phase(any_store, tmp_path, second):
    """As the only place, and as the one that follows a local one."""
    place = any_store.new_folder()
    places = [str(tmp_path / "local"), place] if second else [place]
    scratch = str(tmp_path / "scratch")
    save_trained(place, 1, scratch=scratch)
    expected, phase = 1, 0
    while True:
        save = Save(places, 10 + phase, *make_trained(0), {}, scratch=scratch)
        is_dead = died(start(save.request, save.setup, phase))
        save.close()
        try:
            whole_manifest(storage.join(place, f"step-{10 + phase:08d}"))
            expected = 10 + phase
        except Exception:
            assert is_dead
        assert newest(place) == expected
        if not is_dead:
            break
        phase += 1
    assert expected == 10 + phase and phase >= (4 if storage.is_local(place) and not second else 7)
    # What the dead left is in nobody's way: one of their steps is saved after all, once there is no later one.
    for step in checkpoint_steps(place):
        if step > 10:
            storage.delete_folder(storage.join(place, folder_name(step)))
    again = Save([place], 10, *make_trained(2), {}, scratch=scratch)
    assert [*again.phases()][-2].endswith("committed")
    again.close()
    names = {entry.name for entry in storage.list_entries(storage.join(place, "step-00000010"))}
    assert len(names) == 4 and sum(again.attempt in name for name in names) == 3
    open_checkpoint(storage.join(place, "step-00000010"))


def test_damage_in_the_store_is_found_and_repaired(any_store, tmp_path):
    place, scratch = any_store.new_folder(), str(tmp_path)
    save_trained(place, 5, scratch=scratch)
    for role in ("model", "optimizer", "state", "manifest"):
        save_trained(place, 10, scratch=scratch)
        folder = storage.join(place, "step-00000010")
        attempt = whole_manifest(folder).attempt
        (name,) = (entry.name for entry in storage.list_entries(folder) if entry.name.startswith(role))
        content = bytearray(storage.read_bytes(storage.join(folder, name)))
        if role == "manifest":
            content = content[: len(content) // 2]
        else:
            content[len(content) // 2] ^= 1
        storage.write_atomic(storage.join(folder, name), bytes(content))
        skipped = []
        found = newest_checkpoint([place], skipped.append)
        assert found.step == 5
        assert [event.folder for event in skipped] == [folder] and role in skipped[0].reason
        save_trained(place, 10, damaged=(attempt,), scratch=scratch)
        assert newest(place) == 10
        storage.delete_folder(folder)


def test_of_writers_of_one_step_at_once_one_wins(any_store, tmp_path):
    place = any_store.new_folder()
    for step in range(1, 4):
        saves = [Save([place], step, *make_trained(n), {}, scratch=str(tmp_path / str(n))) for n in range(2)]
        assert not any([died(each) for each in [start(save.request, save.setup) for save in saves]])
        found = open_checkpoint(storage.join(place, f"step-{step:08d}"))
        assert found.manifest.attempt in {save.attempt for save in saves}
        for save in saves:
            save.close()


def received(store) -> int:
    """Bytes that the processes of a store have read, from clients and else (Linux)."""
    counts = [Path(f"/proc/{pid}/io").read_text().split() for pid in store.pids]
    return sum(int(count[count.index("rchar:") + 1]) for count in counts)


def test_the_store_goes_down_during_an_upload(remote_store, tmp_path):
    """Training goes on meanwhile; the next save waits, says so, and both are there in the end, as is the one before."""
    url = remote_store.new_folder()
    output = Output(str(tmp_path / "near"), url) if remote_store.name == "gcs" else Output(url)
    output.checkpoints = CheckpointConfig(scratch=str(tmp_path), keep_last=20)
    lines = []
    saving = Saving(output, Journal([Sentences(lines.append)]))
    saving.find_start("auto")
    model = nn.Linear(4000, 4000)  # 64 MB
    optimizer = torch.optim.SGD([{"params": [*model.parameters()], "names": ["weight", "bias"], "lr": 0.1}])
    with saving:
        saving.save(1, model, optimizer, {})
        saving._wait_for_writer(1)
        assert saving.committed == 1
        step = 1
        while saving.committed == step:  # by the time that the store is killed, on a busy machine
            remote_store.start()
            step += 1
            before, began = received(remote_store), time.monotonic()
            saving.save(step, model, optimizer, {})
            assert saving._writer.is_busy
            while received(remote_store) < before + 8e6:
                assert time.monotonic() - began < 120
                time.sleep(0.002)
            remote_store.kill()
            time.sleep(1)
            saving.poll()
        third = threading.Thread(target=saving.save, args=(step + 1, model, optimizer, {}))
        third.start()
        time.sleep(4)
        assert third.is_alive()
        remote_store.start()
        open_checkpoint(storage.join(url, "step-00000001"))
        third.join()
    assert saving.committed == step + 1
    assert any("training waited" in line for line in lines), lines
    for each in range(1, step + 2):
        open_checkpoint(storage.join(url, f"step-{each:08d}"))


def test_a_store_that_stays_away_ends_the_run_with_the_local_ones_in_place(s3_store, tmp_path, monkeypatch):
    monkeypatch.setenv(storage.PATIENCE, "1")
    url = s3_store.new_folder()
    output = Output(str(tmp_path), url, CheckpointConfig(max_failed_saves=2))
    lines = []
    saving = Saving(output, Journal([Sentences(lines.append)]))
    saving.find_start("auto")
    model, optimizer = make_trained(0)
    saving.save(1, model, optimizer, {})
    saving._wait_for_writer(1)
    s3_store.kill()
    with pytest.raises(storage.StoreUnavailable, match="step 3 cannot be written"), saving:
        for step in (2, 3, 4):
            saving.save(step, model, optimizer, {})
    s3_store.start()
    assert newest(url) == 1
    assert newest(str(tmp_path)) == 3


def test_a_run_goes_on_from_the_store_where_its_machine_is_lost(s3_store, config, tmp_path):
    """`cclm pretrain` with --output-hdfs: checkpoints, log, metrics and audit are on the store, and enough to go on."""
    near, url = tmp_path / "run", s3_store.new_folder()
    command = ("pretrain", config(**SMALL | {"training.max_steps": 10_000}), "--output-hdfs", url)
    last = 0
    for _ in range(2):
        process = run_command(*command)
        wait_for_line(near / "metrics.jsonl", last + 4)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 143, err
        assert (f"resuming after step {last}:" if last else "starting:") in out
        last = newest(url)
        assert [line["step"] for line in metrics(near)] == list(range(1, last + 1))
        for name in ("log.txt", "metrics.jsonl", "audit.jsonl"):
            assert storage.read_bytes(storage.join(url, name)) == (near / name).read_bytes(), name
        shutil.rmtree(near)


@pytest.mark.parametrize("place", ["local", "s3"])
def test_sigkill_of_any_rank_or_of_the_writer_at_random_moments(place, tmp_path, request):
    """Whatever dies: the finished run is bit-equal to one that was left alone, and lost at most two save intervals.

    A seed is three kills. The option --kill-seeds tries more of them, which takes half a minute each.
    """
    seeds = request.config.getoption("--kill-seeds")
    remote = [] if place == "local" else [request.getfixturevalue("s3_store").new_folder()]
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.kill_ranks", tmp_path, "0", str(seeds), *remote],
        capture_output=True, text=True, timeout=540, cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    whole = open_checkpoint(tmp_path / "whole" / f"step-{STEPS:08d}")
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == seeds
    assert sum(len(result["kills"]) for result in results) >= seeds
    for result in results:
        mine = open_checkpoint(tmp_path / str(result["seed"]) / whole.path.name)
        for role in ("model", "optimizer"):
            assert mine.file(role).read_bytes() == whole.file(role).read_bytes(), result
        assert metrics(tmp_path / str(result["seed"])) == metrics(tmp_path / "whole"), result
        assert max(result["lost"], default=0) <= 2 * SAVE_EVERY, result
        for url in remote:
            assert newest(storage.join(url, str(result["seed"]))) == STEPS
    print(results)
