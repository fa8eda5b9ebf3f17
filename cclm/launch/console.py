"""The launcher's events as lines on stderr. No torch: `cclm launch` says what is wrong before torch is imported."""

from __future__ import annotations

import sys

from cclm.events import (
    Ended,
    Event,
    NodeJoining,
    NodeLeft,
    Notice,
    PreflightChecked,
    Rejoining,
    Restarted,
    RoundBroken,
    WaitingForNodes,
)
from cclm.launch_contract import EXIT_ATTEMPTS_EXHAUSTED, EXIT_USER_ERROR


class ConsoleSink:
    """Prints a line for each event that a user should read; says nothing of the others, nor of success."""

    def handle(self, event: Event) -> None:
        match event:
            case Notice():
                self._print(event.text)
            case PreflightChecked() if event.found:
                self._print(event.found)
            case WaitingForNodes() if event.max_nodes > 1:
                self._print(f"waiting until {_in_words(event)} have met")
            case NodeJoining():
                self._print("another node wants to join; saving, then going on together")
            case Rejoining():
                self._print("the other nodes took this one for dead and may go on without it; joining them")
            case NodeLeft():
                self._print(f"{event.reason}; going on with the nodes that are left")
            case RoundBroken():
                self._print(f"{event.reason}; meeting the other nodes again, then going on from the newest checkpoint")
            case Restarted():
                which = f"restart {event.max_restarts - event.restarts_left} of {event.max_restarts}"
                self._print(f"{event.reason}; restarting from the newest checkpoint ({which})")
            case Ended() if event.cause is not None:
                self._print_end(event)

    def _print_end(self, event: Ended) -> None:
        """What happened, and what that means for the scheduler."""
        if event.traceback:
            print(event.traceback, file=sys.stderr, end="")
        if event.exit_code in (EXIT_USER_ERROR, EXIT_ATTEMPTS_EXHAUSTED):
            print(f"cclm: error: {event.reason} (exit code {event.exit_code}: not to be retried)", file=sys.stderr)
            return
        decision = "the same command goes on from the newest checkpoint" if event.may_retry else "not to be retried"
        self._print(f"{event.reason}; exit code {event.exit_code}: {decision}")

    def _print(self, sentence: str) -> None:
        print(f"cclm launch: {sentence}", file=sys.stderr, flush=True)


def _in_words(event: WaitingForNodes) -> str:
    least, most = event.min_nodes, event.max_nodes
    return f"{most} nodes" if least == most else f"{least} to {most} nodes"
