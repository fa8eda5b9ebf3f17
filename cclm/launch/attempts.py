"""Bounded attempts: how often in a row a run was started without getting any further, counted beside its checkpoints.

Schedulers restart what exits with 128 and above, some without any bound (a PyTorchJob with restartPolicy ExitCode).
So the launcher counts by itself. A start counts once for all processes and machines. A newer checkpoint and success
start the count anew. A stop from outside (SIGTERM, nodes that join or leave) takes the last start back. So does the
loss of a node, but not without end: a run may be what its nodes die of.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cclm import storage
from cclm.errors import UserError
from cclm.events import AttemptsCounted

DEFAULT_MAX_ATTEMPTS = 5
_LOSSES_PER_ATTEMPT = 10
"""A run may lose nodes this many times `--max-attempts` in a row without a newer checkpoint."""
_MANIFEST = "manifest.json"
_STEP = re.compile(r"step-(\d+)")


class AttemptsExhausted(UserError):
    """Trying again has not helped often enough."""


@dataclass(frozen=True)
class _Count:
    run_id: str
    step: int
    """Step of the newest checkpoint at the last start; 0 if there was none."""
    attempts: int
    """Starts in a row with no newer checkpoint than that."""
    losses: int = 0
    """Starts since that checkpoint that were taken back because a node was lost."""


class Attempts:
    """The count of one run. Only the launcher of node rank 0 may call what writes."""

    def __init__(
        self,
        folders: list[str],
        command: str,
        run_id: str,
        limit: int,
        later_folders: Sequence[list[str]] = (),
        is_folder_taken: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            folders: where the run's checkpoints are, as paths or URLs. The count lies in the last one. While that
                store does not answer, the count lies in the local folder; without one, in `_folder_for_outages`.
            command: of cclm. Each command has a count of its own.
            run_id: of the job; another job in the same folders starts to count anew.
            limit: starts in a row without a newer checkpoint that are allowed.
            later_folders: those of what the command trains after that, whose steps count from 0.
            is_folder_taken: whether another run works in the folders now. Then the count is that run's, and is left
                as it is.
        """
        self._folders, self._command, self._run_id, self.limit = folders, command, run_id, limit
        self._later_folders = later_folders
        self._is_folder_taken = is_folder_taken
        self.is_uncounted = False
        """Whether the last start could not be counted, since another run worked in the folders. That start is refused,
        or it takes over when the other run is gone."""
        self.step: int | None = None
        """Step of the newest checkpoint at the last start, as the count has it; None before there is one."""
        self.url = storage.join(folders[-1], f"attempts-{command}.json")

    def begin(self) -> int:
        """Count a start.

        Returns:
            Which start in a row without a newer checkpoint it is, from 1.

        Raises:
            AttemptsExhausted: there were `limit` already.
            StoreUnavailable: a store does not answer; the start is counted on this machine.
        """
        self.is_uncounted = self._is_folder_taken()
        if self.is_uncounted:
            return self.so_far() + 1
        try:
            attempts = self._count()
        except storage.StoreUnavailable as outage:
            try:
                self._during_outages()._count()
            except AttemptsExhausted as error:
                raise AttemptsExhausted(f"{outage}; {error}") from None
            except (OSError, UserError):
                raise outage from None  # no place on this machine takes the count
            raise
        if not _local(self._folders):
            with contextlib.suppress(OSError):  # the next outage is counted anew
                storage.delete(self._during_outages().url)
        return attempts

    def _during_outages(self) -> Attempts:
        """The count of the starts of this machine while a store does not answer."""
        if local := _local(self._folders):
            later = [kept for each in self._later_folders if (kept := _local(each))]
            return Attempts(local, self._command, self._run_id, self.limit, later)
        return Attempts([_folder_for_outages(self.url)], self._command, self._run_id, self.limit)

    def _count(self) -> int:
        last, step = self._read(), self._steps()
        attempts, losses = 1, 0
        # A step below the last one is a new beginning as well: --resume never.
        if last is not None and (last.run_id, last.step) == (self._run_id, step):
            attempts, losses = last.attempts + 1, last.losses
        is_lossy = losses > _LOSSES_PER_ATTEMPT * self.limit
        if attempts > self.limit or is_lossy:
            since = f"the checkpoint of step {step}" if step else "any checkpoint"
            since = f"checkpoints of {step} steps in all" if step and self._later_folders else since
            what = f"{losses} starts in a row, each ended by the loss of a node," if is_lossy else None
            what = what or f"{self.limit} attempts in a row"
            raise AttemptsExhausted(
                f"{what} got no further than {since}: giving up. Look at what ended them, "
                f"then delete {self.url} to try again, or allow more with --max-attempts"
            )
        self._write(_Count(self._run_id, step, attempts, losses))
        return attempts

    def so_far(self) -> int:
        """Starts in a row without a newer checkpoint than now, the present one included.

        Raises:
            StoreUnavailable: a store does not answer.
        """
        last = self._read()
        is_known = last is not None and (last.run_id, last.step) == (self._run_id, self._steps())
        return last.attempts if last is not None and is_known else 0

    def take_back(self, *, is_loss: bool = False) -> int:
        """Do not count the last start: it was stopped from outside, or refused what it was given.

        Args:
            is_loss: whether it ended because a node was lost.

        Returns:
            The starts in a row that remain.

        Raises:
            StoreUnavailable: a store does not answer.
            UserError: the count cannot be written.
        """
        if self.is_uncounted:
            return self.so_far()
        last = self._read()
        if last is None or last.run_id != self._run_id or last.attempts <= 0:
            return 0
        self._write(_Count(last.run_id, last.step, last.attempts - 1, last.losses + is_loss))
        return last.attempts - 1

    def reset(self) -> None:
        """Start to count anew, since the run has succeeded.

        Raises:
            StoreUnavailable: a store does not answer.
            UserError: the count cannot be written.
        """
        self._write(_Count(self._run_id, self._steps(), 0))

    def counted(self, attempts: int) -> AttemptsCounted:
        """The event that tells a count, which `begin` or `take_back` has returned."""
        return AttemptsCounted(attempts, self.limit, self.step)

    def _steps(self) -> int:
        """How far the run has come: the step of its newest checkpoint, summed over what it trains one after another."""
        return sum(newest_step(folders) for folders in (self._folders, *self._later_folders))

    def _read(self) -> _Count | None:
        """The stored count. None if there is none or it cannot be parsed: a lost count must not stop a run."""
        try:
            found = json.loads(storage.read_bytes(self.url))
            losses = int(found.get("losses", 0))
            return _Count(str(found["run_id"]), int(found["step"]), int(found["attempts"]), losses)
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _write(self, count: _Count) -> None:
        try:
            values = {name: value for name, value in vars(count).items() if name != "losses" or value}
            storage.write_atomic(self.url, (json.dumps(values) + "\n").encode())
            self.step = count.step
        except storage.StoreUnavailable:
            raise
        except OSError as error:
            raise UserError(f"{self.url} cannot be written: {error}") from error


def _folder_for_outages(url: str) -> str:
    """A folder of this machine for the count that otherwise is at `url`. It outlives the launcher, but not a pod."""
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    return str(Path(tempfile.gettempdir()) / f"cclm-attempts-{os.getuid()}" / name)


def _local(folders: list[str]) -> list[str]:
    return [folder for folder in folders if storage.is_local(folder)]


def newest_step(folders: list[str]) -> int:
    """The step of the newest checkpoint in any of the folders; 0 if there is none.

    A checkpoint counts if its manifest is there. Whoever resumes from it checks its contents.
    """
    return max(_newest_step(folder) for folder in folders)


def _newest_step(folder: str) -> int:
    try:
        names = [entry.name for entry in storage.list_entries(folder)]
    except FileNotFoundError:
        return 0
    steps = sorted(((int(match[1]), name) for name in names if (match := _STEP.fullmatch(name))), reverse=True)
    return next((step for step, name in steps if storage.exists(storage.join(folder, name, _MANIFEST))), 0)
