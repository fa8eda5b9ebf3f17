"""Where a run starts: anew, or from a checkpoint of the same run; and what is done with one that is in the way."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cclm import storage
from cclm.checkpoints.commit import whole_manifest
from cclm.checkpoints.find import (
    Checkpoint,
    find_checkpoint,
    holds_checkpoints,
    is_checkpoint_folder,
    newest_checkpoint,
)
from cclm.checkpoints.manifest import MANIFEST, OPTIMIZER, TornCheckpointError, folder_name, is_run, new_run
from cclm.checkpoints.retention import checkpoint_steps
from cclm.checkpoints.writer import LOCK
from cclm.data.stored.audit import AUDIT
from cclm.data.stored.quarantine import QUARANTINE
from cclm.errors import UserError
from cclm.events import Journal, Notice
from cclm.launch_contract import JOB_ID, UNNAMED_JOB, UNNAMED_JOB_REFUSED
from cclm.metrics.log_file import LOG
from cclm.metrics.metrics_file import METRICS
from cclm.metrics.results import PREDICTIONS, RESULTS
from cclm.training.held_out import RESULT

BEST = "best"
"""Folder of the best checkpoint in each place."""

RUN = "run.json"
"""The name of the run, for starts that find no checkpoint."""

KEPT_FILES = (METRICS, LOG, RESULT, AUDIT, QUARANTINE, RESULTS, f"{PREDICTIONS}/*")
"""What a run writes beside its checkpoints, as names or patterns."""


@dataclass(frozen=True)
class Start:
    """Where a run goes on; the same on every process."""

    step: int
    """Outer steps done."""
    state: Mapping[str, Any]
    """What was given to `save`."""
    source: str
    """Folder of the checkpoint, for messages."""
    checkpoint: Checkpoint | None
    """On the first process; None on others."""


@dataclass(frozen=True)
class Found:
    """What the first process knows when a run starts."""

    run: str | None
    """Name of the run, old or new; None until `make_room`, where it goes on from another run's checkpoint."""
    checkpoint: Checkpoint | None = None
    damaged: tuple[str, ...] = ()
    """Attempts behind newer checkpoints of this run, which were passed over as damaged: to be replaced."""
    origin: str | None = None
    """The folder that the run was told to go on from when it began."""


def find_start(places: Sequence[str], folder: Path, resume: str, journal: Journal) -> Found:
    """Look for a checkpoint and, unless it comes from elsewhere (`make_room`), make the places ready; on one process.

    Args:
        places: folders of the run, paths and URLs.
        folder: where log and metrics of the run go on; fetched from where the checkpoint is.
        resume: auto, never, or the folder of a checkpoint or run.
        journal: gets a notice of each checkpoint that is passed over.

    Raises:
        UserError: there are checkpoints and none is whole, `resume` names none that a run can go on from, or it is
            never and the job has no name.
    """
    if resume == "never":
        job = _job()
        if not _began_anew(places, job):
            for place in places:
                set_aside(place)
            return Found(_claim(places, job))
        journal.emit(Notice(f"job {job} has begun anew before (--resume never): going on with what it saved"))
    mine = newest_checkpoint(places, lambda text: journal.emit(Notice(text)))
    if resume in ("auto", "never") or (mine is not None and mine.state.get("origin") == resume):
        if mine is None:
            for place in places:
                if holds_checkpoints(place):
                    raise UserError(f"no checkpoint in {place} is whole (see above); start anew with --resume never")
            return Found(_claim(places))
        home = next(place for place in places if mine.source.startswith(place.rstrip("/") + "/"))
        fetch_logs(places, folder, newer=home)
        return Found(mine.manifest.run, mine, _attempts_after(mine.step, places), mine.state.get("origin"))
    if not is_checkpoint_folder(resume):
        guess = difflib.get_close_matches(resume, ("auto", "never"), n=1)
        raise UserError(
            f"--resume {resume} is neither auto nor never, nor the folder of a checkpoint or run that exists; "
            + (f"did you mean {guess[0]}?" if guess else "give one, as output/demo or output/demo/step-00000900")
        )
    start = find_checkpoint(resume)
    if OPTIMIZER not in start.manifest.files:
        raise UserError(
            f"--resume: {start.source} holds weights only, as {BEST}/ does, and without optimizer state no run can go "
            "on from it; begin a run with its weights (model.weights in pre-training, --checkpoint in fine-tuning), or "
            "name a step-... folder of the run"
        )
    return Found(None, start, origin=resume)


def make_room(found: Found, places: Sequence[str]) -> Found:
    """Set aside what is in the way of a run that goes on from elsewhere, once its checkpoint is known to fit."""
    if found.run is not None:
        return found
    for place in places:
        set_aside(place, but=found.checkpoint.source)
    return replace(found, run=_claim(places))


def _claim(places: Sequence[str], job: str | None = None) -> str:
    """A name for a run that starts anew, the same when it is started again before its first checkpoint.

    Else what a writer of the first start still brings to an end would be another run's to the second.

    Args:
        job: for which `never` has set aside what was there.
    """
    for place in places:
        run = _claimed(place).get("run")
        if is_run(run):
            return run
    run = new_run()
    content = {"run": run} | ({} if job is None else {"began_anew_for": job})
    for place in places:
        storage.write_atomic(storage.join(place, RUN), (json.dumps(content) + "\n").encode())
    return run


def _claimed(place: str) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        return dict(json.loads(storage.read_bytes(storage.join(place, RUN))))
    return {}


def _began_anew(places: Sequence[str], job: str | None) -> bool:
    """Whether an earlier start of this job has obeyed `never`: a scheduler's retry must not throw away what it did."""
    return job is not None and any(_claimed(place).get("began_anew_for") == job for place in places)


def _job() -> str | None:
    """What all starts of this job have in common; None where nothing starts it again.

    torchrun's count of restarts would not do: it stands still while nodes come and leave.

    Raises:
        UserError: it may be started again and has no name.
    """
    job = os.environ.get(JOB_ID) or os.environ.get("TORCHELASTIC_RUN_ID") or None
    if job == UNNAMED_JOB:
        raise UserError(UNNAMED_JOB_REFUSED)
    return job


def _attempts_after(step: int, places: Sequence[str]) -> tuple[str, ...]:
    attempts = set()
    for place in places:
        for newer in itertools.takewhile(lambda other: other > step, checkpoint_steps(place)):
            try:
                attempts.add(whole_manifest(storage.join(place, folder_name(newer))).attempt)
            except TornCheckpointError:
                continue
    return tuple(sorted(attempts))


@contextlib.contextmanager
def no_trace_if_refused(*places: str | None) -> Iterator[None]:
    """Take the local folders of a run away again that were made for it in here, where it is refused before it begins.

    Else what is left - an empty folder, or one with a name for the run - looks like a run.
    """
    folders = [Path(storage.local_path(place)) for place in places if place is not None and storage.is_local(place)]
    made = [folder for folder in folders if not folder.exists()]
    try:
        yield
    except UserError:
        for folder in made:
            with contextlib.suppress(OSError):
                if {path.name for path in folder.iterdir()} <= {RUN, LOCK}:
                    shutil.rmtree(folder)
        raise


def fetch_logs(places: Sequence[str], folder: Path, newer: str | None = None) -> None:
    """Bring log and metrics to `folder`, a local one, so that they go on where they were written elsewhere before.

    Args:
        newer: the place whose files replace shorter ones in `folder`; None: only absent ones are fetched.
    """
    for name in (LOG, METRICS):
        local = folder / name
        for place in places if newer is None else [newer]:
            remote = storage.join(place, name)
            if Path(storage.local_path(remote)) == local or not storage.exists(remote):
                continue
            if not local.exists() or (newer is not None and local.stat().st_size < storage.size(remote)):
                storage.download(remote, str(local))


def set_aside(place: str, but: str | None = None) -> None:
    """Take what an earlier run left in `place` out of the way; nothing is deleted.

    In a local folder it moves into a folder of its own there. Stores cannot move: log, metrics and results are copied
    into such a folder, and checkpoints stay where they are, with their manifests under another name.

    Args:
        but: a checkpoint's folder that stays as it is.
    """
    folders = [storage.join(place, folder_name(step)) for step in checkpoint_steps(place)]
    folders = [folder for folder in folders if folder != (but or "").rstrip("/")]
    if storage.is_local(place):
        root = Path(storage.local_path(place))
        kept = [pattern.partition("/")[0] for pattern in KEPT_FILES]  # a folder of files moves as a whole
        names = [*(Path(storage.local_path(folder)).name for folder in folders), *kept, RUN, BEST]
        paths = sorted({path for name in names for path in root.glob(name)})
        if paths:
            folder = root / _name_aside(lambda name: (root / name).exists())
            folder.mkdir()
            for path in paths:
                path.rename(folder / path.name)
        return
    best = storage.join(place, BEST)
    folders += [storage.join(best, folder_name(step)) for step in checkpoint_steps(best)]

    def is_taken(name: str) -> bool:
        manifests = (storage.join(folder, f"manifest-{name}.json") for folder in folders)
        return storage.is_folder(storage.join(place, name)) or any(map(storage.exists, manifests))

    aside = _name_aside(is_taken)
    for folder in folders:
        manifest = storage.join(folder, MANIFEST)
        if storage.exists(manifest):
            storage.write_atomic(storage.join(folder, f"manifest-{aside}.json"), storage.read_bytes(manifest))
            storage.delete(manifest)
    for name in _names_like(place, (*KEPT_FILES, RUN)):
        url = storage.join(place, name)
        storage.write_atomic(storage.join(place, aside, name), storage.read_bytes(url))
        storage.delete(url)


def _name_aside(is_taken: Callable[[str], bool]) -> str:
    """A name with the time in it that nothing has: two runs may be set aside within a second, or clocks set back."""
    stamp = time.strftime("earlier-%Y%m%d-%H%M%S")
    names = (stamp if number == 1 else f"{stamp}-{number}" for number in itertools.count(1))
    return next(name for name in names if not is_taken(name))


def _names_like(place: str, patterns: Sequence[str]) -> list[str]:
    """Files of a folder, and of folders in it, whose names match one of some patterns such as "log.txt" or "a/*"."""
    found = []
    for folder in {pattern.rpartition("/")[0] for pattern in patterns}:
        with contextlib.suppress(FileNotFoundError):
            entries = storage.list_entries(storage.join(place, folder) if folder else place)
            found += [f"{folder}/{entry.name}".lstrip("/") for entry in entries if not entry.is_folder]
    return sorted(name for name in found if any(fnmatch.fnmatch(name, pattern) for pattern in patterns))
