"""`launch-COMMAND.json`: what the launcher knows of a run, beside its checkpoints, for `cclm status`.

The launcher of node 0 keeps it in every folder of the run: restarts by cause, attempts, nodes, and how the run ended.
Counts go on over launches, since a scheduler launches a run again, too. A thread of its own writes the file, so a store
that does not answer holds up nothing.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
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
    RoundBroken,
    WaitingForNodes,
)

PREFIX = "launch-"
_LAST_WRITE = 10.0
"""Seconds that the end of a launch waits for the last state to be written."""


def launch_file_name(command: str) -> str:
    """The name of the file of a command of cclm."""
    return f"{PREFIX}{command}.json"


class LaunchFile:
    """A sink that keeps the file up to date.

    A file that cannot be written is one warning and ends nothing. Nodes other than node 0 write nothing, and neither
    does a launch before its nodes have met: until then it may be refused.

    Args:
        folders: where the run's checkpoints are, as paths or URLs.
        command: of cclm.
        job: name of the job.
        starts_anew: whether a new job sets aside what is there (`--resume never`): then its counts begin with 0.
        journal: gets a `Notice` when the file cannot be written.
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
        self._is_leader = False
        self._restarts: Counter[str] = Counter()
        """Of this launch."""
        self._values: dict[str, Any] = {"command": command, "job": job, "phase": "preparing", "end": None}
        self._earlier: dict[str, Any] | None = None
        """What the last launch left; None: not read yet. Only the writing thread uses it."""
        self._is_refused = False
        self._states: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        """States to write; None ends the thread."""
        self._thread: threading.Thread | None = None

    def handle(self, event: Event) -> None:
        match event:
            case WaitingForNodes():
                self._values["phase"] = "rendezvous"
            case NodesMet():
                self._is_leader = event.node_rank == 0
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

    def _count(self, cause: str, reason: str, restarts_left: int) -> None:
        self._restarts[cause.lower()] += 1
        last = {"cause": cause.lower(), "reason": reason, "time": time.time()}
        self._values |= {"last_restart": last, "restarts_left": restarts_left}

    def _write_soon(self) -> None:
        self._states.put({**self._values, "restarts": dict(self._restarts), "time": time.time()})
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="launch-file", daemon=True)
            self._thread.start()

    def _finish(self) -> None:
        self._states.put(None)
        if self._thread is not None:
            self._thread.join(_LAST_WRITE)

    def _write_all(self) -> None:
        state: dict[str, Any] | None = None
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

    def _try_to_write(self, state: dict[str, Any]) -> None:
        try:
            self._write(state)
            self._is_refused = False
        except (OSError, UserError) as error:
            if not self._is_refused:
                self._journal.emit(Notice(f"cclm status will not know of restarts: {error}"))
            self._is_refused = True

    def _write(self, state: dict[str, Any]) -> None:
        if self._earlier is None:
            self._earlier = self._read_earlier()
        restarts = Counter(state["restarts"])
        last = state.get("last_restart")
        if self._earlier:
            restarts.update(self._earlier["restarts"])
            end = self._earlier.get("end") or {"cause": "unknown", "reason": "the launcher itself was killed"}
            if end["cause"] is not None:
                restarts[end["cause"]] += 1
                last = last or {"time": self._earlier["time"], **end}
            last = last or self._earlier.get("last_restart")
        launches = self._earlier.get("launches", 0) + 1
        content = {**state, "restarts": dict(restarts), "last_restart": last, "launches": launches}
        failures = []
        for url in self._urls:
            try:
                storage.write_atomic(url, (json.dumps(content, ensure_ascii=False) + "\n").encode(errors="replace"))
            except (OSError, UserError) as error:
                failures.append(f"{url} cannot be written ({error})")
        if failures:
            raise OSError("; ".join(failures))

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


def _is_refused_start(state: dict[str, Any]) -> bool:
    """Whether a launch has ended as it was not to begin."""
    return state["end"] is not None and state["end"]["cause"] == "user_error"
