"""`cclm status` of a real run: while it trains, after a rank was killed, after a stop, and at its end."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import end, run
from .test_metrics_endpoint import children

pytestmark = pytest.mark.slow


def status(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("status", folder, "--json").stdout)
    return found


def wait_until(folder: Path, condition: Callable[[dict[str, Any]], bool], limit: float = 180) -> dict[str, Any]:
    """Ask until a condition holds, once there is a status."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if (folder / "status.json").exists() and condition(found := status(folder)):
            return found
        time.sleep(0.5)
    raise AssertionError("the condition never came true")


def test_a_run_tells_how_it_is(config, tmp_path: Path, launch) -> None:
    store, folder = tmp_path / "store", tmp_path / "run"
    changes = {"training.max_steps": 4000, "training.log_every": 2, "training.save_every": 5, "output_hdfs": str(store)}
    process = launch(config(**changes), "--max-restarts", 3)
    first = wait_until(folder, lambda found: found["phase"] == "training" and found["checkpoint"] is not None)
    assert first["total_steps"] == 4000 and first["processes"] == 2 and first["starts"] == 1
    assert first["eta_seconds"] > 0 and first["images_per_second"] > 0 and not first["is_silent"]
    assert first["checkpoint"]["age_seconds"] < 120 and first["notes"] == []
    assert sum(first["launcher"]["restarts"].values()) == 0 and first["launcher"]["attempts"] == 1

    mine = (folder / "launch-pretrain.json").read_bytes()
    refused = run("launch", "--", "pretrain", config(**changes), code=2)  # a second start, while the first run lives
    assert "a run already works in" in refused.stderr
    assert (folder / "launch-pretrain.json").read_bytes() == (store / "launch-pretrain.json").read_bytes() == mine

    os.kill(children(process.pid)[-1], signal.SIGKILL)
    again = wait_until(folder, lambda found: found["starts"] == 2 and found["eta_seconds"] is not None)
    assert again["launcher"]["restarts"] == {"killed": 1} and again["run"] == first["run"]
    assert "restarts    1 (killed 1); the last one, " in run("status", folder).stdout

    os.kill(process.pid, signal.SIGTERM)
    end(process, 143)
    stopped = status(folder)
    assert stopped["phase"] == "stopped" and stopped["launcher"]["end"]["cause"] == "preempted"
    copy = status(store)
    assert (copy["phase"], copy["step"]) == ("stopped", stopped["step"]) and copy["launcher"] == stopped["launcher"]

    process = launch(config(**changes | {"training.max_steps": stopped["step"] + 3}))
    end(process, 0)
    for place in (folder, store):
        found = status(place)
        assert found["phase"] == "ended" and found["step"] == found["checkpoint"]["step"] == stopped["step"] + 3
        assert found["losses"] and found["launcher"]["restarts"] == {"killed": 1, "preempted": 1}
    last = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][-1]
    assert found["losses"] == last["losses"] and found["lr"] == last["lr"]

    end(launch(config(**changes | {"training.max_steps": 2}), "--rdzv-id", "anew", resume="never"), 0)
    anew = status(folder)
    assert (anew["step"], anew["starts"], anew["notes"]) == (2, 1, []) and anew["run"] != first["run"]
    assert anew["launcher"]["restarts"] == {} and list(folder.glob("earlier-*/status.json"))
