"""`cclm launch` on loopback: ranks and agents are killed, stopped and hung, and the run goes on or says why not."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import end, metrics, verdict
from .test_pretrain import assert_equal_checkpoints, folders, wait_for_line

pytestmark = pytest.mark.slow

SMALL = {
    "data.regions": None,
    "data.images_mono": None,
    "data.texts": None,
    "data.images.num_workers": 0,
    "training.save_every": 3,
}
KILLS = int(os.environ.get("CCLM_TEST_KILLS", 2))
"""Ranks killed in one run, at random steps."""
SEED = int(os.environ.get("CCLM_TEST_SEED", random.randrange(1000)))


def ranks(agent: subprocess.Popen) -> dict[int, int]:
    """Process ids of the agent's training processes, by rank."""
    found = {}
    for child in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split():
        try:
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        found |= {int(value[5:]): int(child) for value in variables if value.startswith(b"RANK=")}
    return found


def wait_for_text(path: Path, text: str, times: int = 1) -> None:
    deadline = time.monotonic() + 240
    while not path.exists() or path.read_text().count(text) < times:
        assert time.monotonic() < deadline, f"no {text!r} in {path}"
        time.sleep(0.02)


def test_killed_ranks_change_nothing(config, tmp_path, launch):
    """SIGKILL of a random rank at random steps: the run ends with the parameters of an undisturbed one, bit for bit."""
    steps = 24 + 4 * KILLS
    settings = SMALL | {"training.max_steps": steps}
    end(launch(config("whole", **settings)), 0)
    chance = random.Random(SEED)
    run = launch(config("killed", **settings), "--max-restarts", KILLS, "--max-attempts", KILLS + 1)
    at = sorted(chance.sample(range(1, steps - 16), KILLS))  # so that it is not over before it is killed
    for number, step in enumerate(at):
        wait_for_text(tmp_path / "killed" / "log.txt", " processes on cpu", number + 1)
        wait_for_line(tmp_path / "killed" / "metrics.jsonl", step)
        victims = ranks(run)
        os.kill(victims[chance.choice(sorted(victims))], signal.SIGKILL)
    err = end(run, 0)
    context = f"seed {SEED}, killed after steps {at}\n{err}"
    assert err.count("was killed by SIGKILL") == KILLS, context
    assert f"restart {KILLS} of {KILLS}" in err, context
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole"), context
    last = f"step-{steps:08d}"
    assert_equal_checkpoints(tmp_path / "killed" / last, tmp_path / "whole" / last)
    assert json.loads((tmp_path / "killed" / "attempts-pretrain.json").read_text())["attempts"] == 0


@pytest.mark.parametrize("whom", ["agent", "group", "one rank"])
def test_sigterm_saves_and_says_preempted(config, tmp_path, launch, whom):
    path = config(**SMALL | {"training.max_steps": 10_000, "training.save_every": None, "data.images.num_workers": 1})
    run = launch(path, "--max-restarts", 3, "--shutdown-timeout", 60)
    wait_for_line(tmp_path / "run" / "metrics.jsonl", 3)
    if whom == "agent":
        run.send_signal(signal.SIGTERM)
    elif whom == "group":
        os.killpg(run.pid, signal.SIGTERM)
    else:
        os.kill(ranks(run)[1], signal.SIGTERM)
    err = end(run, 143, timeout=180)
    last = metrics(tmp_path / "run")[-1]["step"]
    assert folders(tmp_path / "run") == [f"step-{last:08d}"]
    assert "stopped by SIGTERM" in verdict(err) and "exit code 143" in verdict(err)
    assert "Traceback" not in err
    assert json.loads((tmp_path / "run" / "attempts-pretrain.json").read_text())["attempts"] == 0


def test_sigterm_before_training(config, tmp_path, launch):
    """While processes start (here: as soon as there are any) there is nothing to save, so they leave at once."""
    run = launch(config(**SMALL))
    deadline = time.monotonic() + 180
    while not ranks(run):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.send_signal(signal.SIGTERM)
    assert "exit code 143" in verdict(end(run, 143, timeout=180))
    assert not folders(tmp_path / "run")


def test_a_hung_process_ends_the_wait_by_timeout(config, tmp_path, launch):
    path = config(**SMALL | {"training.max_steps": 10_000})
    run = launch(path, "--collective-timeout", 45, "--shutdown-timeout", 2)
    wait_for_line(tmp_path / "run" / "metrics.jsonl", 4)
    hung = ranks(run)[1]
    os.kill(hung, signal.SIGSTOP)
    err = end(run, 134, timeout=240)
    assert "rank 0 waited too long for another process" in verdict(err)
    assert "the same command goes on from the newest checkpoint" in verdict(err)
    assert not Path(f"/proc/{hung}").exists()
    assert "Traceback" not in err


def test_a_mistake_that_only_processes_see_is_one_sentence_and_is_not_tried_again(config, tmp_path, launch):
    path = config(**SMALL | {"training.max_steps": 4, "optimizer.lr": 1e30})
    err = end(launch(path, "--max-restarts", 3), 2)
    assert err.count("training diverged") == 1
    assert "Traceback" not in err and "restarting" not in err
    (tmp_path / "run" / "attempts-pretrain.json").write_text('{"run_id": "local", "step": 0, "attempts": 5}')
    err = end(launch(path, "--max-restarts", 3), 3)
    assert "5 attempts in a row got no further" in verdict(err)
