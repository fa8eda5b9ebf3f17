"""Where a run starts: anew, or from a checkpoint of the same run or of another one."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
from collections.abc import Mapping, Sequence
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
from cclm.checkpoints.manifest import OPTIMIZER, TornCheckpointError, is_run, new_run
from cclm.errors import UserError
from cclm.events import CheckpointSkipped, Journal, Notice
from cclm.launch_contract import JOB_ID, UNNAMED_JOB, UNNAMED_JOB_REFUSED
from cclm.training.run_files import BEST, fetch_logs, set_aside
from cclm.training.run_folder import RUN


@dataclass(frozen=True)
class Start:
    """Where a run goes on; the same on every process."""

    step: int
    """Outer steps done."""
    state: Mapping[str, Any]
    """The JSON values that were given to `Saving.save`."""
    source: str
    """Folder of the checkpoint, for messages."""
    checkpoint: Checkpoint | None
    """On the first process; None on others."""


@dataclass(frozen=True)
class Lineage:
    """Which run this is and what it goes on from; only the first process knows."""

    run: str | None
    """Name of the run, old or new. A run that goes on from another run's checkpoint has None until `make_room`."""
    checkpoint: Checkpoint | None = None
    damaged: tuple[str, ...] = ()
    """Attempts behind newer checkpoints of this run, which were passed over as damaged: they are to be replaced."""
    origin: str | None = None
    """The folder of `--resume` that the run went on from when it began."""
    is_named_anew: bool = False
    """Whether this start has named the run: there was nothing of it before."""

    @property
    def step(self) -> int | None:
        """The step that the run goes on from; None for one that starts anew."""
        return None if self.checkpoint is None else self.checkpoint.step


def find_lineage(places: Sequence[str], folder: Path, resume: str, journal: Journal) -> Lineage:
    """Look for a checkpoint, and make the places ready; on one process.

    Where the checkpoint is another run's, the places stay as they are until `make_room`.

    Args:
        places: folders of the run, paths and URLs.
        folder: where log and metrics of the run go on; fetched from where the checkpoint is.
        resume: auto, never, or the folder of a checkpoint or run.
        journal: gets `CheckpointSkipped` for each torn checkpoint that is passed over, and a notice if the job has
            begun anew before.

    Raises:
        UserError: there are checkpoints and none is whole, `resume` names none that a run can go on from, or it is
            never and the job has no name.
    """
    if resume == "never":
        job = _job()
        if not _began_anew(places, job):
            for place in places:
                set_aside(place)
            return _claim_name(places, job)
        journal.emit(Notice(f"job {job} has begun anew before (--resume never): going on with what it saved"))
    passed_over: list[CheckpointSkipped] = []

    def report(skipped: CheckpointSkipped) -> None:
        passed_over.append(skipped)
        journal.emit(skipped)

    mine = newest_checkpoint(places, report)
    if resume in ("auto", "never") or (mine is not None and mine.state.get("origin") == resume):
        if mine is None:
            for place in places:
                if holds_checkpoints(place):
                    raise UserError(f"no checkpoint in {place} is whole (see above); start anew with --resume never")
            return _claim_name(places)
        # One place may lie within the other: the innermost one that holds the checkpoint is its home.
        home = max((place for place in places if mine.source.startswith(place.rstrip("/") + "/")), key=len)
        fetch_logs(places, folder, newer=home)
        return Lineage(mine.manifest.run, mine, _attempts_behind(passed_over, mine), mine.state.get("origin"))
    return Lineage(None, _checkpoint_of(resume), origin=resume)


def _checkpoint_of(resume: str) -> Checkpoint:
    """The checkpoint that `--resume` names.

    Raises:
        UserError: there is none, or no run can go on from it.
    """
    if not is_checkpoint_folder(resume):
        guess = difflib.get_close_matches(resume, ("auto", "never"), n=1)
        raise UserError(
            f"--resume {resume} is neither auto nor never, nor the folder of a checkpoint or run that exists; "
            + (f"did you mean {guess[0]}?" if guess else "give one, as output/demo or output/demo/step-00000900")
        )
    checkpoint = find_checkpoint(resume)
    if OPTIMIZER not in checkpoint.manifest.files:
        raise UserError(
            f"--resume: {checkpoint.source} holds weights only, as {BEST}/ does, and without optimizer state no run "
            "can go on from it; begin a run with its weights (model.weights in pre-training, --checkpoint in "
            "fine-tuning), or name a step-... folder of the run"
        )
    return checkpoint


def make_room(lineage: Lineage, places: Sequence[str]) -> Lineage:
    """Name a run that goes on from another run's checkpoint, and set aside what is in its way.

    This is done only when the checkpoint is known to fit the model. For other runs there is nothing to do.

    Returns:
        The lineage, with the name of the run.
    """
    if lineage.run is not None:
        return lineage
    source = None if lineage.checkpoint is None else lineage.checkpoint.source
    for place in places:
        set_aside(place, but=source)
    claimed = _claim_name(places)
    return replace(lineage, run=claimed.run, is_named_anew=claimed.is_named_anew)


def withdraw_name(lineage: Lineage, places: Sequence[str]) -> None:
    """Delete the name that this start has given its run in stores, since the run is refused before it begins.

    A local folder is removed as a whole (`run_folder.no_trace_if_refused`).
    """
    if lineage.is_named_anew:
        for place in places:
            with contextlib.suppress(OSError, UserError):  # why the run is refused matters more
                if not storage.is_local(place) and _claim_in(place).get("run") == lineage.run:
                    storage.delete(storage.join(place, RUN))


def _claim_name(places: Sequence[str], job: str | None = None) -> Lineage:
    """A run that starts anew, with its name, which is written to its places.

    A second start before the first checkpoint must get the same name. Otherwise the writer of the first start, which
    may still be committing a checkpoint, would belong to another run.

    Args:
        job: the job for which `--resume never` has set aside what was there.
    """
    for place in places:
        earlier = _claim_in(place).get("run")
        if is_run(earlier):
            return Lineage(earlier)
    run = new_run()
    content = {"run": run} | ({} if job is None else {"began_anew_for": job})
    for place in places:
        storage.write_atomic(storage.join(place, RUN), (json.dumps(content) + "\n").encode())
    return Lineage(run, is_named_anew=True)


def _claim_in(place: str) -> dict[str, Any]:
    """Contents of `RUN` in a place; {} where it is absent or unreadable."""
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        return dict(json.loads(storage.read_bytes(storage.join(place, RUN))))
    return {}


def _began_anew(places: Sequence[str], job: str | None) -> bool:
    """Whether an earlier start of this job has obeyed `never`. A scheduler's retry must not set aside what it saved."""
    return job is not None and any(_claim_in(place).get("began_anew_for") == job for place in places)


def _job() -> str | None:
    """What all starts of this job have in common; None where nothing starts it again.

    torchrun's count of restarts would not do, since it stays the same while nodes come and leave.

    Raises:
        UserError: it may be started again and has no name.
    """
    job = os.environ.get(JOB_ID) or os.environ.get("TORCHELASTIC_RUN_ID") or None
    if job == UNNAMED_JOB:
        raise UserError(UNNAMED_JOB_REFUSED)
    return job


def _attempts_behind(passed_over: Sequence[CheckpointSkipped], taken: Checkpoint) -> tuple[str, ...]:
    """The attempts that made the damaged checkpoints after the one that a run goes on from.

    A checkpoint that is newer only because another process of the run has saved it meanwhile is not damaged. That
    process is ahead, and what it saves must not be replaced.

    Args:
        passed_over: the checkpoints that were not whole.
        taken: the checkpoint that the run goes on from.
    """
    attempts = set()
    for skipped in passed_over:
        with contextlib.suppress(TornCheckpointError):  # deleted meanwhile: it is in nobody's way
            manifest = whole_manifest(skipped.folder)
            if manifest.attempt == skipped.attempt and manifest.step > taken.step:
                attempts.add(manifest.attempt)
    return tuple(sorted(attempts))
