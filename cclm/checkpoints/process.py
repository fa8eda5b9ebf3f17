"""The training process's end of the writer (`writer.py`): starts it, sends orders, hears how they went."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import subprocess
import sys
from collections.abc import Collection, Iterable
from typing import Any

from cclm.checkpoints.retention import Retention
from cclm.checkpoints.snapshot import Layout
from cclm.checkpoints.writer import Outcome, Setup, open_lock, take_lock


class WriterProcess:
    """Starts the writer; one that died is started again at the next order.

    Args:
        setup: `setup.memory` is the snapshot's file descriptor in this process.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._layout: Layout | None = None
        self._names: set[str] = set()
        self._in_flight: list[tuple[int, str]] = []
        """Step and places of the orders under way."""
        self._outcomes: list[Outcome] = []
        self._flush_problems: list[str] | None = None
        self._received = b""
        self._process = self._start()

    @property
    def is_busy(self) -> bool:
        """Whether an order is under way, as far as heard."""
        return bool(self._in_flight)

    @property
    def pid(self) -> int:
        return self._process.pid

    def save(
        self,
        step: int,
        layout: Layout,
        roles: Collection[str],
        state: dict[str, Any],
        places: tuple[str, ...],
        retention: Retention | None,
        score: float | None = None,
    ) -> None:
        """Order a checkpoint of what the snapshot holds, which must stay as it is until the outcome is heard."""
        if self._process.poll() is not None:
            self._hear(block=False)
            self._process = self._start()
        if layout is not self._layout:
            self._send({"layout": {role: _plain(members) for role, members in layout.items()}})
            self._layout = layout
        self._in_flight.append((step, ", ".join(places)))
        kept = retention and dataclasses.asdict(retention)
        order = {"step": step, "roles": [*roles], "state": state, "places": places, "retention": kept, "score": score}
        self._send({"save": order})

    def mirror(self, names: Iterable[str]) -> None:
        """Keep these files equal in the remote places from now on."""
        new = set(names) - self._names
        if new:
            self._names |= new
            self._send({"mirror": sorted(new)})

    def outcomes(self, *, wait: bool) -> list[Outcome]:
        """What was heard of orders since the last call; with `wait`, until none is under way."""
        while self._hear(block=wait and self.is_busy):
            pass
        heard, self._outcomes = self._outcomes, []
        return heard

    def flush(self) -> list[str]:
        """Send the small files as they are now; returns what could not be sent, in words."""
        self._flush_problems = None
        self._send({"flush": True})
        while self._flush_problems is None and self._process.poll() is None:
            self._hear(block=True)
        return self._flush_problems if self._flush_problems is not None else ["the process that sends files has ended"]

    def close(self) -> None:
        """Let the writer finish what it was ordered, and end."""
        self._process.stdin.close()
        while self._process.stdout.read(2**16):
            pass
        self._process.wait()
        self._process.stdout.close()

    def _start(self) -> subprocess.Popen:
        self._layout, self._received = None, b""
        setup = self._setup
        with contextlib.ExitStack() as opened:
            # Taken before there is a writer: whoever starts the run again waits for one that is only starting, too.
            with contextlib.suppress(OSError):  # the folder is gone, or full: a save may fail of it, not this
                lock = opened.enter_context(open_lock(setup.mirror_from))
                take_lock(lock, seconds=0)
                setup = dataclasses.replace(setup, lock=lock.fileno())
            process = subprocess.Popen(
                [sys.executable, "-m", "cclm.checkpoints.writer", json.dumps(dataclasses.asdict(setup))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[shared for shared in (setup.memory, setup.lock) if shared is not None],
                bufsize=0,
                pipesize=2**20,  # an order sent while another is under way must not wait for it
            )
        if self._names:
            process.stdin.write(_line({"mirror": sorted(self._names)}))
        return process

    def _send(self, message: dict[str, Any]) -> None:
        try:
            data = memoryview(_line(message))
            while data:
                data = data[self._process.stdin.write(data) :]
        except BrokenPipeError:
            pass  # its end is heard, and told, like any outcome

    def _hear(self, *, block: bool) -> bool:
        """Take in what the writer says; False when there is nothing more for now."""
        readable, _, _ = select.select([self._process.stdout], [], [], None if block else 0)
        if not readable:
            return False
        heard = os.read(self._process.stdout.fileno(), 2**16)
        if not heard:
            self._process.wait()
            self._lose_orders()
            return False
        *lines, self._received = (self._received + heard).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "saved" in message:
                self._in_flight.pop(0)
                self._outcomes.append(Outcome(**message["saved"]))
            if "flushed" in message:
                self._flush_problems = message["flushed"]
        return True

    def _lose_orders(self) -> None:
        """The writer has ended before its time: whatever was under way is lost."""
        for step, places in self._in_flight:
            error = f"the process that writes it ended with code {self._process.returncode}"
            self._outcomes.append(Outcome(step, places, error=error, cause="died"))
        self._in_flight = []


def _plain(members: dict) -> dict[str, dict]:
    return {name: dataclasses.asdict(place) for name, place in members.items()}


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
