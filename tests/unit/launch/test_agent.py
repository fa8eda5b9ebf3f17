"""What the agent does becomes events with numbers; here with processes that only exit."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cclm import events
from cclm.events import Event, Journal
from cclm.launch.attempts import Attempts
from cclm.launch.torchrun import TorchrunSettings, build_agent, parse_options


class Recorder:
    """A sink that keeps the events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def handle(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture(autouse=True)
def _process_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch sets variables for its processes, and handlers of signals."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in handled}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def without_seconds(found: list[Event]) -> list[Event]:
    return [
        events.NodesMet(**vars(event) | {"seconds": 0.0}) if isinstance(event, events.NodesMet) else event
        for event in found
    ]


def test_a_failure_and_its_restart_are_counted(tmp_path: Path) -> None:
    recorder = Recorder()
    options = ["--nproc-per-node=2", "--max-restarts=1", "--monitor-interval=0.05"]
    config = parse_options(options, ["pretrain"], str(tmp_path / "logs")).config
    settings = TorchrunSettings(config, [sys.executable, "-S", "-c", "raise SystemExit(200)"])
    attempts = Attempts([str(tmp_path)], "pretrain", "job", 5)
    agent = build_agent(settings, attempts, 5, Journal([recorder]))
    result = agent.run()
    agent.end_for_all(agent.failure)
    assert result.is_failed() and agent.failure is not None and agent.failure.cause.name == "LOST_PEER"
    start = [events.WaitingForNodes(1, 1), events.NodesMet(1, 1, 1, 0, 2, 0.0)]
    (restarted,) = [event for event in recorder.events if isinstance(event, events.Restarted)]
    assert (restarted.cause, restarted.restarts_left, restarted.max_restarts) == ("LOST_PEER", 0, 1)
    assert restarted.reason.startswith("rank ") and "exit code 200" in restarted.reason
    expected = [*start, events.AttemptsCounted(1, 5, 0), restarted, *start, events.AttemptsCounted(2, 5, 0)]
    assert without_seconds(recorder.events) == expected
