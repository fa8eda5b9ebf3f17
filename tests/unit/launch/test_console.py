"""The launcher's sentences, and what they may cost."""

import subprocess
import sys

import pytest

from cclm.events import (
    AttemptsCounted,
    Ended,
    Event,
    NodeJoining,
    NodeLeft,
    NodesMet,
    Notice,
    PreflightChecked,
    Rejoining,
    Restarted,
    RestartsCounted,
    RoundBroken,
    WaitingForNodes,
)
from cclm.launch.causes import Cause
from cclm.launch.console import ConsoleSink


def ended(cause: Cause, reason: str, traceback: str = "") -> Ended:
    return Ended(cause.code, cause.name, reason, cause.may_retry, traceback)


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Notice("all is well"), "cclm launch: all is well\n"),
        (PreflightChecked("gpus", None, "8 x A100", 0.1), "cclm launch: 8 x A100\n"),
        (NodeJoining(1, 3), "cclm launch: another node wants to join; saving, then going on together\n"),
        (Rejoining(3), "cclm launch: the other nodes took this one for dead and may go on without it; joining them\n"),
        (NodeLeft("PEER_STOPPED", "rank 1 left", 3),
         "cclm launch: rank 1 left; going on with the nodes that are left\n"),
        (RoundBroken("LOST_PEER", "node 1 is lost", 3),
         "cclm launch: node 1 is lost; meeting the other nodes again, then going on from the newest checkpoint\n"),
        (Restarted("KILLED", "rank 1 was killed", 1, 3),
         "cclm launch: rank 1 was killed; restarting from the newest checkpoint (restart 2 of 3)\n"),
        (ended(Cause.PREEMPTED, "stopped by SIGTERM"),
         "cclm launch: stopped by SIGTERM; exit code 143: the same command goes on from the newest checkpoint\n"),
        (ended(Cause.BUG, "rank 0: KeyError: 'x'", "Traceback ...\n"),
         "Traceback ...\ncclm launch: rank 0: KeyError: 'x'; exit code 1: not to be retried\n"),
        (ended(Cause.USER_ERROR, "lr is 0"), "cclm: error: lr is 0 (exit code 2: not to be retried)\n"),
        (ended(Cause.ATTEMPTS_EXHAUSTED, "giving up"), "cclm: error: giving up (exit code 3: not to be retried)\n"),
        (Ended(0, None, "", may_retry=False), ""),
        (WaitingForNodes(1, 2), "cclm launch: waiting until 1 to 2 nodes have met\n"),
        (WaitingForNodes(2, 2), "cclm launch: waiting until 2 nodes have met\n"),
        (WaitingForNodes(1, 1), ""),
        (NodesMet(2, 1, 2, 0, 16, 3.5), ""),
        (AttemptsCounted(1, 5), ""),
        (RestartsCounted({"killed": 1}), ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Event) else "",
)  # fmt: skip
def test_sentences(capsys: pytest.CaptureFixture[str], event: Event, text: str) -> None:
    ConsoleSink().handle(event)
    printed = capsys.readouterr()
    assert (printed.err, printed.out) == (text, "")


def test_the_sink_and_the_events_import_no_torch() -> None:
    modules = "sys, cclm.events, cclm.launch.console"
    check = f"import {modules}; sys.exit(bool({{'torch', 'pydantic', 'fsspec'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
