"""The local folder of a run before the run begins: only one run works in it, and a refused one leaves no trace.

Nothing here imports torch, so that a run that must not begin says so at once.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from cclm import storage
from cclm.checkpoints.lock import LOCK
from cclm.errors import UserError
from cclm.launch_contract import FULL_WORLD_SIZE, JOB_ID, LAUNCHER_PID, UNNAMED_JOB
from cclm.metrics.phases import FINAL
from cclm.metrics.status_file import STATUS
from cclm.processes import has_ended

RUN = "run.json"
"""The name of the run, for starts that find no checkpoint."""
RUN_LOCK = ".run.lock"
"""File that the first process of a run keeps locked while it trains. It says who that is."""

_PATIENCE = 0.8
"""Seconds that a process of this machine, which may be about to end, is given."""
_PATIENCE_FAR = 60.0
"""Seconds that a process elsewhere is given: a machine that is gone may hold its lock on a shared disk for a while."""


class FolderInUseError(UserError):
    """Another run lives in the folder."""


@dataclass(frozen=True)
class Worker:
    """Who works in a folder."""

    host: str
    pid: int
    time: float
    """Unix time at which it began."""
    job: str
    """Name of its job; empty where it has none."""
    command: str
    launcher: int = 0
    """Process id of its launcher, on the same host; 0 where it has none."""

    def __str__(self) -> str:
        since = datetime.datetime.fromtimestamp(self.time).strftime("%Y-%m-%d %H:%M:%S")
        return f"process {self.pid} on {self.host}, since {since} ({self.command})"


@contextlib.contextmanager
def no_trace_if_refused(*places: str | None) -> Iterator[None]:
    """Delete the local folders that were made for a run in here, if the run is refused before it begins.

    Otherwise an empty folder, or one with nothing but a name for the run, would be left and look like a run.
    """
    made = [folder for folder in _local_folders(*places) if not folder.exists()]
    try:
        yield
    except FolderInUseError:
        raise
    except UserError:
        for folder in made:
            with contextlib.suppress(OSError):
                if {path.name for path in folder.iterdir()} <= {RUN, LOCK, RUN_LOCK}:
                    shutil.rmtree(folder)
        raise


@contextlib.contextmanager
def working_alone(*places: str | None, environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """A block in which no other run works in the local folders among `places`.

    The first process of a run alone looks, and locks. The kernel takes the lock away when the process ends, however it
    ends. An earlier process of the same job is waited for and, if it hangs, left alone: the others took it for dead. So
    is a process of another machine that gives no sign of life in `status.json`: its machine may be gone. Where a job
    has one node only, a process of another launcher that lives on this machine is another run, whatever its job's name.

    Raises:
        FolderInUseError: another run works there.
    """
    if environment.get("RANK", "0") != "0":
        yield
        return
    with contextlib.ExitStack() as opened:
        for folder in _local_folders(*places):
            with contextlib.suppress(OSError):  # the run itself says why the folder cannot be made or written to
                folder.mkdir(parents=True, exist_ok=True)
                _lock(opened.enter_context(open(folder / RUN_LOCK, "a")), folder, _starter_of(environment))
        yield


def is_worked_in_by_others(*places: str | None, launcher: int) -> bool:
    """Whether a run of another launcher works in one of the local folders among `places`.

    Args:
        launcher: process id of the launcher that asks, on this machine.
    """
    for folder in _local_folders(*places):
        with contextlib.suppress(OSError), open(folder / RUN_LOCK) as file:
            if _is_locked(file):
                worker = _worker_in(folder)
                if worker is None or (worker.host, worker.launcher) != (socket.gethostname(), launcher):
                    return True
    return False


def _is_locked(file: TextIO) -> bool:
    """Whether another process has locked a file."""
    try:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    return False


def _local_folders(*places: str | None) -> list[Path]:
    return [Path(storage.local_path(place)) for place in places if place is not None and storage.is_local(place)]


@dataclass(frozen=True)
class _Starter:
    """What has started this process."""

    job: str
    """What all starts of the job have in common; empty where nothing names it."""
    launcher: int
    """Process id; 0 where there is none."""
    is_alone: bool
    """Whether the job has no other launcher."""

    def is_same_job(self, other: Worker) -> bool:
        """Whether a process that works in the folder is an earlier one of this job."""
        if self.job == "" or self.job != other.job:
            return False
        is_rival = (
            self.is_alone
            and other.host == socket.gethostname()
            and other.launcher not in (0, self.launcher)
            and not has_ended(other.launcher)
        )
        return not is_rival


def _starter_of(environment: Mapping[str, str]) -> _Starter:
    job = environment.get(JOB_ID) or environment.get("TORCHELASTIC_RUN_ID") or ""
    processes = environment.get("LOCAL_WORLD_SIZE")
    return _Starter(
        job="" if job == UNNAMED_JOB else job,
        launcher=int(environment.get(LAUNCHER_PID, "0")),
        is_alone=processes is not None and environment.get(FULL_WORLD_SIZE) == processes,
    )


def _lock(file: TextIO, folder: Path, starter: _Starter) -> None:
    """Lock the file of a folder, and write into it who has done that."""
    sign = _sign_of_life(folder)
    if not _is_locked_within(_PATIENCE, file):
        other = _worker_in(folder)
        is_same_job = other is not None and starter.is_same_job(other)
        if not is_same_job and (other is None or other.host == socket.gethostname()):
            raise _refusal(folder, other)
        print(f"{folder} is in use by {other}; waiting up to {_PATIENCE_FAR:.0f} s for its end", file=sys.stderr)
        until = time.monotonic() + _PATIENCE_FAR
        while not _is_locked_within(_PATIENCE, file):
            if not is_same_job and _sign_of_life(folder) not in (None, sign):
                raise _refusal(folder, other)
            if time.monotonic() >= until:
                return
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    file.truncate(0)
    worker = Worker(socket.gethostname(), os.getpid(), time.time(), starter.job, command, starter.launcher)
    file.write(json.dumps(asdict(worker)) + "\n")
    file.flush()


def _is_locked_within(seconds: float, file: TextIO) -> bool:
    """Try to lock a file; whether it is ours now. It counts as ours where the file system has no locks."""
    until = time.monotonic() + seconds
    while True:
        try:
            # Of the process, not of the open file: processes that are forked while it is open do not hold it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):
            if time.monotonic() >= until:
                return False
            time.sleep(0.02)
        except OSError:
            return True


def _worker_in(folder: Path) -> Worker | None:
    """Who has locked the folder; None where the file does not say it."""
    try:
        return Worker(**json.loads((folder / RUN_LOCK).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _sign_of_life(folder: Path) -> object:
    """Time of the last sign of life of the run in a folder. None if it has ended, or if no file tells it."""
    try:
        status = json.loads((folder / STATUS).read_text())
        return None if status["phase"] in FINAL else status["time"]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _refusal(folder: Path, other: Worker | None) -> FolderInUseError:
    who = "another process" if other is None else str(other)
    return FolderInUseError(
        f"a run already works in {folder}: {who}. Give this one another output_dir, or end that one first. Several "
        "processes of one run are started by cclm launch --nproc-per-node N -- COMMAND, or by srun cclm COMMAND"
    )
