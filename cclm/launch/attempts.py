"""Bounded attempts: how often in a row a run was started without getting any further, counted beside its checkpoints.

Schedulers restart what exits with 128 and above, some without any bound (a PyTorchJob with restartPolicy ExitCode).
A start counts once, whichever process or machine makes it; a newer checkpoint, a stop from outside (SIGTERM, members
that come or leave) and success take it back.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from cclm import storage
from cclm.errors import UserError

DEFAULT_MAX_ATTEMPTS = 5
_MANIFEST = "manifest.json"
_STEP = re.compile(r"step-(\d+)")


class AttemptsExhausted(UserError):
    """Trying again has not helped often enough."""


@dataclass(frozen=True)
class _Count:
    run_id: str
    step: int
    """Newest checkpoint at the last start; 0 if none."""
    attempts: int
    """Starts since that checkpoint was new."""


class Attempts:
    """The count of one run. Only the process that leads the group (node rank 0) may call what writes."""

    def __init__(self, folders: list[str], command: str, run_id: str, limit: int) -> None:
        """
        Args:
            folders: where the run's checkpoints are, as paths or URLs; the count lies in the last one, and in the
                local one while a store does not answer. Where there is no local one, nothing is counted meanwhile.
            run_id: of the job; another job in the same folders starts to count anew.
        """
        self._folders, self._command, self._run_id, self._limit = folders, command, run_id, limit
        self.url = storage.join(folders[-1], f"attempts-{command}.json")

    def begin(self) -> int:
        """Count a start; returns which one it is, from 1.

        Raises:
            AttemptsExhausted: there were `limit` without a newer checkpoint.
            StoreUnavailable: a store does not answer; the start is counted if there is a local folder.
        """
        try:
            return self._count()
        except storage.StoreUnavailable as outage:
            if local := [folder for folder in self._folders if storage.is_local(folder)]:
                try:
                    Attempts(local, self._command, self._run_id, self._limit)._count()
                except AttemptsExhausted as error:
                    raise AttemptsExhausted(f"{outage}; {error}") from None
            raise

    def _count(self) -> int:
        last, step = self._read(), newest_step(self._folders)
        same = last is not None and (last.run_id, last.step) == (self._run_id, step)  # a lower step: --resume never
        attempts = last.attempts + 1 if same else 1
        if attempts > self._limit:
            since = f"the checkpoint of step {step}" if step else "any checkpoint"
            raise AttemptsExhausted(
                f"{self._limit} attempts in a row got no further than {since}: giving up. Look at what ended them, "
                f"then delete {self.url} to try again, or allow more with --max-attempts"
            )
        self._write(_Count(self._run_id, step, attempts))
        return attempts

    def take_back(self) -> None:
        """The last start does not count: it was stopped from outside, or refused what it was given."""
        last = self._read()
        if last and last.run_id == self._run_id and last.attempts > 0:
            self._write(_Count(last.run_id, last.step, last.attempts - 1))

    def succeed(self) -> None:
        """The run is done: start to count anew."""
        self._write(_Count(self._run_id, newest_step(self._folders), 0))

    def _read(self) -> _Count | None:
        """None if there is none, or if it cannot be understood: a count that is lost must not stop a run."""
        try:
            found = json.loads(storage.read_bytes(self.url))
            return _Count(str(found["run_id"]), int(found["step"]), int(found["attempts"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _write(self, count: _Count) -> None:
        try:
            storage.write_atomic(self.url, (json.dumps(vars(count)) + "\n").encode())
        except storage.StoreUnavailable:
            raise
        except OSError as error:
            raise UserError(f"{self.url} cannot be written: {error}") from error


def newest_step(folders: list[str]) -> int:
    """The newest checkpoint's step by its manifest's presence, 0 if none; contents are checked by who resumes."""
    return max(_newest_step(folder) for folder in folders)


def _newest_step(folder: str) -> int:
    try:
        names = [entry.name for entry in storage.list_entries(folder)]
    except FileNotFoundError:
        return 0
    steps = sorted(((int(match[1]), name) for name in names if (match := _STEP.fullmatch(name))), reverse=True)
    return next((step for step, name in steps if storage.exists(storage.join(folder, name, _MANIFEST))), 0)
