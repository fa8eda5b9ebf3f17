"""One endpoint for all that a command does."""

import argparse
import socket
import urllib.request
from collections.abc import Sequence

import pytest

from cclm.cli import main, run
from cclm.cli.metrics import while_serving_metrics
from cclm.events import StepDone
from cclm.launch_contract import LAUNCHER_PID, METRICS_FOLDER, METRICS_PORT
from cclm.metrics.prometheus import sink_of_process


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """One that is free, as the variable names it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found: int = free.getsockname()[1]
    monkeypatch.setenv(METRICS_PORT, str(found))
    for name in (METRICS_FOLDER, LAUNCHER_PID, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return found


def make_steps(count: int, port: int) -> dict[str, float]:
    """Train so many steps; returns what a scrape finds then."""
    sink = sink_of_process()
    assert sink is not None
    for step in range(count):
        sink.handle(StepDone(step + 1))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        lines = [line.split() for line in answer.read().decode().splitlines() if line.startswith("cclm_train_step")]
    return {name: float(value) for name, value in lines}


def test_a_second_command_in_one_process_serves_its_own_values(port: int) -> None:
    found = []
    for steps in (3, 5):
        while_serving_metrics(argparse.Namespace(), lambda: found.append(make_steps(steps, port)))  # noqa: B023
    assert found == [
        {"cclm_train_steps_total": 3, "cclm_train_step": 3},
        {"cclm_train_steps_total": 5, "cclm_train_step": 5},
    ]


def test_the_parts_of_a_run_share_an_endpoint(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first half of nlvr_domain is scraped, then the second one, at the same endpoint, which counts on."""
    found = []

    def train(command: Sequence[str]) -> int:
        args = argparse.Namespace(metrics_port=None)
        return while_serving_metrics(args, lambda: found.append(make_steps(3, port)))

    monkeypatch.setattr(run, "_run", train)
    monkeypatch.setattr(run, "launcher_of", lambda dist: [])
    words = "run --task nlvr_domain --dist 1 --output_dir out --checkpoint c".split()
    assert main.run(words) == 0
    assert found == [
        {"cclm_train_steps_total": 3, "cclm_train_step": 3},
        {"cclm_train_steps_total": 6, "cclm_train_step": 3},
    ]
