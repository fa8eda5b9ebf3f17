"""`launch-COMMAND.json`: what the launcher knows of a run, beside its checkpoints, for `cclm status`.

The launcher of node 0 keeps it in every folder of the run: restarts by cause, attempts, nodes, and how the run ended.
Counts go on over launches, since a scheduler launches a run again, too, and over nodes, since another one becomes node
0 when that is lost. A thread of its own writes the file, so a store that does not answer holds up nothing.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cclm import storage
from cclm.errors import UserError
from cclm.events import (
    AttemptsCounted,
    Ended,
    Event,
    Journal,
    NodeJoining,
    NodeLeft,
    NodesMet,
    Notice,
    Rejoining,
    Restarted,
    RestartsCounted,
    RoundBroken,
    WaitingForNodes,
)

PREFIX = "launch-"
_LAST_WRITE = 10.0
"""Seconds that the end of a launch waits for the last state to be written."""


def launch_file_name(command: str) -> str:
    """The name of the file of a command of cclm."""
    return f"{PREFIX}{command}.json"


@dataclass(frozen=True)
class _State:
    """What this launcher knows at one moment."""

    values: dict[str, Any]
    restarts: dict[str, int]
    """Since this launcher became node 0."""
    term: int
    """Counts how often this launcher has become node 0."""
    is_successor: bool
    """Whether it became node 0 in the place of another launcher, beside which it had trained."""


class LaunchFile:
    """A sink that keeps the file up to date.

    A file that cannot be written is one warning and ends nothing. Nodes other than node 0 write nothing, and neither
    does a launch before its nodes have met: until then it may be refused.

    Args:
        folders: where the run's checkpoints are, as paths or URLs.
        command: of cclm.
        job: name of the job.
        starts_anew: whether a new job sets aside what is there (`--resume never`): then its counts begin with 0.
        journal: gets a `RestartsCounted` when the file is written, and a `Notice` when that fails.
        is_folder_taken: whether another run works in the folders now. Then the file is that run's, and is left as it
            is until that run has ended.
        look_again: seconds until that is asked again.
    """

    def __init__(
        self,
        folders: list[str],
        command: str,
        job: str | None,
        *,
        starts_anew: bool,
        journal: Journal,
        is_folder_taken: Callable[[], bool] = lambda: False,
        look_again: float = 1.0,
    ) -> None:
        self._urls = [storage.join(folder, launch_file_name(command)) for folder in folders]
        self._job, self._starts_anew, self._journal = job, starts_anew, journal
        self._is_folder_taken, self._look_again = is_folder_taken, look_again
        self._is_leader = self._has_met = False
        self._term, self._is_successor = 0, False
        self._restarts: Counter[str] = Counter()
        """Since this launcher became node 0. On other nodes: since the nodes met last."""
        self.counted: dict[str, int] = {}
        """Restarts of the whole run by cause, as of the last state that was written; empty on other nodes."""
        self._values: dict[str, Any] = {"command": command, "job": job, "phase": "preparing", "end": None}
        self._earlier: dict[str, Any] | None = None
        """What the last node 0 left; None: not read yet. Only the writing thread uses it."""
        self._term_of_earlier = 0
        self._is_refused = False
        self._states: queue.SimpleQueue[_State | None] = queue.SimpleQueue()
        """States to write; None ends the thread."""
        self._thread: threading.Thread | None = None

    def handle(self, event: Event) -> None:
        match event:
            case WaitingForNodes():
                self._values["phase"] = "rendezvous"
            case NodesMet():
                self._take_rank(event.node_rank)
                self._values |= {
                    "phase": "running",
                    "nodes": event.nodes,
                    "min_nodes": event.min_nodes,
                    "max_nodes": event.max_nodes,
                    "processes": event.processes,
                }
            case AttemptsCounted():
                self._values |= {
                    "attempts": event.attempts,
                    "max_attempts": event.max_attempts,
                    "attempts_step": event.step,
                }
            case Restarted() | NodeLeft() | RoundBroken():
                self._count(event.cause, event.reason, event.restarts_left)
            case NodeJoining():
                self._count("membership", "another node joins", event.restarts_left)
            case Rejoining():
                self._count("membership", "the other nodes took this one for dead", event.restarts_left)
            case Ended():
                self._values["phase"] = "ended"
                self._values["end"] = {
                    "exit_code": event.exit_code,
                    "cause": None if event.cause is None else event.cause.lower(),
                    "reason": event.reason,
                    "may_retry": event.may_retry,
                    "time": time.time(),
                }
            case _:
                return
        if self._is_leader:
            self._write_soon()
        if isinstance(event, Ended):
            self._finish()

    def _take_rank(self, node_rank: int) -> None:
        """Begin to count, or leave that to another node. The new node 0 counts the cause that ended the last round."""
        was_leader, self._is_leader = self._is_leader, node_rank == 0
        if self._is_leader and not was_leader:
            self._term, self._is_successor = self._term + 1, self._has_met
        if not self._is_leader:
            self._restarts.clear()
            self.counted = {}
        self._has_met = True

    def _count(self, cause: str, reason: str, restarts_left: int) -> None:
        self._restarts[cause.lower()] += 1
        last = {"cause": cause.lower(), "reason": reason, "time": time.time()}
        self._values |= {"last_restart": last, "restarts_left": restarts_left}

    def _write_soon(self) -> None:
        values = {**self._values, "time": time.time()}
        self._states.put(_State(values, dict(self._restarts), self._term, self._is_successor))
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="launch-file", daemon=True)
            self._thread.start()

    def _finish(self) -> None:
        self._states.put(None)
        if self._thread is not None:
            self._thread.join(_LAST_WRITE)

    def _write_all(self) -> None:
        state: _State | None = None
        """The newest state, if it is not written yet."""
        was_taken = is_over = False
        while not is_over:
            with contextlib.suppress(queue.Empty):
                newer = self._states.get(timeout=None if state is None else self._look_again)
                while newer is not None and not self._states.empty():  # only the newest counts
                    state, newer = newer, self._states.get()
                is_over = newer is None
                state = state if newer is None else newer
            if state is None:
                continue
            if self._is_folder_taken():
                was_taken = True
            elif not (was_taken and _is_refused_start(state)):
                self._try_to_write(state)
                state = None

    def _try_to_write(self, state: _State) -> None:
        try:
            restarts = self._write(state)
            self._is_refused = False
        except (OSError, UserError) as error:
            if not self._is_refused:
                self._journal.emit(Notice(f"cclm status will not know of restarts: {error}"))
            self._is_refused = True
            return
        if self._is_leader and state.term == self._term:
            self.counted = restarts
            if state.values["end"] is None:
                self._journal.emit(RestartsCounted(restarts))

    def _write(self, state: _State) -> dict[str, int]:
        """Write the file; returns the restarts of the whole run by cause."""
        if self._term_of_earlier != state.term:
            self._earlier, self._term_of_earlier = None, state.term
        if self._earlier is None:
            self._earlier = self._read_earlier()
        restarts = Counter(state.restarts)
        last = state.values.get("last_restart")
        if self._earlier:
            restarts.update(self._earlier["restarts"])
            end = self._earlier.get("end") or {"cause": "unknown", "reason": "the launcher itself was killed"}
            # A successor has counted itself what became of the node 0 before it.
            if end["cause"] is not None and not state.is_successor:
                restarts[end["cause"]] += 1
                last = last or {"time": self._earlier["time"], **end}
            last = last or self._earlier.get("last_restart")
        launches = self._earlier.get("launches", 0) + (not (state.is_successor and self._earlier))
        content = {**state.values, "restarts": dict(restarts), "last_restart": last, "launches": launches}
        failures = []
        for url in self._urls:
            try:
                storage.write_atomic(url, (json.dumps(content, ensure_ascii=False) + "\n").encode(errors="replace"))
            except (OSError, UserError) as error:
                failures.append(f"{url} cannot be written ({error})")
        if failures:
            raise OSError("; ".join(failures))
        return dict(restarts)

    def _read_earlier(self) -> dict[str, Any]:
        """What the last launch of this run left; empty if there is nothing, or the run starts anew.

        Raises:
            StoreUnavailable: a store does not answer, and no other place has it.
        """
        outage = None
        for url in reversed(self._urls):  # a store has what other machines wrote
            try:
                found = json.loads(storage.read_bytes(url))
                Counter(found["restarts"]).total()
                float(found["time"])
            except storage.StoreUnavailable as error:
                outage = error
                continue
            except (OSError, UserError, ValueError, KeyError, TypeError, AttributeError):
                continue  # what keeps it from being read shows when it is written
            is_same_job = self._job is not None and found.get("job") == self._job
            return dict(found) if is_same_job or not self._starts_anew else {}
        if outage is not None:
            raise outage
        return {}


def _is_refused_start(state: _State) -> bool:
    """Whether a launch has ended as it was not to begin."""
    end = state.values["end"]
    return end is not None and end["cause"] == "user_error"
