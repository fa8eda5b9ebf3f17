"""The training process's end of the writer (`writer.py`): starts it, sends requests, receives outcomes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, NamedTuple

from cclm.checkpoints.lock import open_lock, take_lock
from cclm.checkpoints.messages import (
    FailureCause,
    SaveOutcome,
    SaveRequest,
    TensorPlace,
    WriterSetup,
    layout_to_json,
)


class WriterProcess:
    """Starts the writer. A writer that died is started again at the next request to save.

    Args:
        setup: `setup.memory` is the snapshot's file descriptor in this process.
    """

    def __init__(self, setup: WriterSetup) -> None:
        self._setup = setup
        self._sent_layout: dict[str, Mapping[str, TensorPlace]] = {}
        """By role: what the writer knows of where tensors lie."""
        self._names: set[str] = set()
        self._in_flight: list[SaveRequest] = []
        """Saves under way, oldest first."""
        self._outcomes: list[SaveOutcome] = []
        self._flush_problems: list[str] | None = None
        self._received = b""
        """The start of a line whose end has not come yet."""
        self._process = self._start()

    @property
    def is_busy(self) -> bool:
        """Whether a save is under way, as far as this process has read outcomes."""
        return bool(self._in_flight)

    @property
    def pid(self) -> int:
        return self._process.pid

    def save(self, request: SaveRequest) -> None:
        """Request a checkpoint. The snapshot must stay as it is until the outcome is there."""
        if self._process.poll() is not None:
            self._receive(block=False)
            self._process = self._start()
        new = {role: members for role, members in request.layout.items() if self._sent_layout.get(role) is not members}
        if new:
            self._send({"layout": layout_to_json(new)})
            self._sent_layout |= new
        self._in_flight.append(request)
        self._send({"save": request.to_json()})

    def mirror(self, names: Iterable[str]) -> None:
        """Keep these files equal in the remote places from now on."""
        new = set(names) - self._names
        if new:
            self._names |= new
            self._send({"mirror": sorted(new)})

    def outcomes(self, *, wait: bool) -> list[SaveOutcome]:
        """The outcomes since the last call. With `wait`, until no save is under way."""
        while self._receive(block=wait and self.is_busy):
            pass
        received, self._outcomes = self._outcomes, []
        return received

    def flush(self) -> list[str]:
        """Send the small files as they are now; returns what could not be sent, in words."""
        self._flush_problems = None
        self._send({"flush": True})
        while self._flush_problems is None and self._process.poll() is None:
            self._receive(block=True)
        return self._flush_problems if self._flush_problems is not None else ["the process that sends files has ended"]

    def hurry(self) -> None:
        """Let the writer wait for stores that are away only for seconds from now on. A signal handler may call it."""
        self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Let the writer finish what was requested, and end."""
        pipes = _pipes_of(self._process)
        pipes.requests.close()
        while pipes.answers.read(2**16):
            pass
        self._process.wait()
        pipes.answers.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self._sent_layout, self._received = {}, b""
        setup = self._setup
        with contextlib.ExitStack() as opened:
            # The lock is taken before there is a writer, so that whoever starts the run again also waits for a writer
            # that is only starting. If it cannot be opened (the folder is gone, or full), a save may fail of that
            # later; starting the writer does not.
            with contextlib.suppress(OSError):
                lock = opened.enter_context(open_lock(setup.mirror_from))
                take_lock(lock, seconds=0)
                setup = dataclasses.replace(setup, lock=lock.fileno())
            with _sigterm_blocked():
                process = subprocess.Popen(
                    [sys.executable, "-m", "cclm.checkpoints.writer", json.dumps(dataclasses.asdict(setup))],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    pass_fds=[shared for shared in (setup.memory, setup.lock) if shared is not None],
                    bufsize=0,
                    pipesize=2**20,  # a request sent while another is under way must not wait for it
                )
        if self._names:
            _pipes_of(process).requests.write(_line({"mirror": sorted(self._names)}))
        return process

    def _send(self, message: Mapping[str, Any]) -> None:
        requests = _pipes_of(self._process).requests
        # The end of a writer that died is noticed, and reported, when its answers are read.
        with contextlib.suppress(BrokenPipeError):
            data = memoryview(_line(message))
            while data:
                data = data[requests.write(data) :]

    def _receive(self, *, block: bool) -> bool:
        """Read answers of the writer; False when there is nothing more for now."""
        answers = _pipes_of(self._process).answers
        readable, _, _ = select.select([answers], [], [], None if block else 0)
        if not readable:
            return False
        received = os.read(answers.fileno(), 2**16)
        if not received:
            self._process.wait()
            self._fail_saves_in_flight()
            return False
        *lines, self._received = (self._received + received).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "saved" in message:
                self._in_flight.pop(0)
                self._outcomes.append(SaveOutcome.from_json(message["saved"]))
            if "flushed" in message:
                self._flush_problems = message["flushed"]
        return True

    def _fail_saves_in_flight(self) -> None:
        """The writer has ended too early: whatever was under way is lost."""
        for request in self._in_flight:
            error = f"the process that writes it ended with code {self._process.returncode}"
            self._outcomes.append(SaveOutcome(request.step, request.place, error=error, cause=FailureCause.DIED))
        self._in_flight = []


@contextlib.contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Processes that are started within get no SIGTERM until they unblock it, and lose none."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Pipes(NamedTuple):
    requests: IO[bytes]
    """The writer's stdin."""
    answers: IO[bytes]
    """The writer's stdout."""


def _pipes_of(process: subprocess.Popen[bytes]) -> _Pipes:
    assert process.stdin is not None and process.stdout is not None, "the writer is started with pipes"
    return _Pipes(process.stdin, process.stdout)


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
