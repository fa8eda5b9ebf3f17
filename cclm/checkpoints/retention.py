"""Deletes old checkpoints of a place: only those of the same run, never the last whole one, each manifest first."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from cclm import storage
from cclm.checkpoints.commit import clear_leftovers, remove_files, verify, whole_manifest
from cclm.checkpoints.manifest import (
    MANIFEST,
    Manifest,
    NoManifestError,
    TornCheckpointError,
    folder_name,
    step_of_folder,
)
from cclm.events import CleanupFailed


@dataclass(frozen=True)
class Retention:
    """Which checkpoints are kept in one place."""

    keep_last: int
    """Newest whole checkpoints kept, at least 1."""
    keep_every: int | None = None
    """Checkpoints whose step is a multiple of this stay for good."""
    resumed_from: int | None = None
    """The step that the run went on from: kept until a newer one has been read back and verified."""


def checkpoint_steps(place: str) -> list[int]:
    """Steps of the folders named like checkpoints in a run's folder, newest first, unchecked; [] for an absent one."""
    try:
        entries = storage.list_entries(place)
    except (FileNotFoundError, NotADirectoryError):
        return []
    steps = (step_of_folder(entry.name) for entry in entries if entry.is_folder)
    return sorted((step for step in steps if step is not None), reverse=True)


def has_newer(place: str, run: str, step: int, damaged: Collection[str]) -> bool:
    """Whether a run's folder has a whole checkpoint of `run` after `step`.

    Args:
        damaged: attempts whose checkpoints do not count.
    """
    for newer in itertools.takewhile(lambda other: other > step, checkpoint_steps(place)):
        with contextlib.suppress(TornCheckpointError):
            manifest = whole_manifest(storage.join(place, folder_name(newer)))
            if manifest.run == run and manifest.attempt not in damaged:
                return True
    return False


def prune(
    place: str, run: str, rule: Retention, report: Callable[[CleanupFailed], None], saved: int | None = None
) -> Retention:
    """Delete the checkpoints of `run` in `place` that `rule` does not keep. A failure is reported, not raised.

    Args:
        saved: the step just saved. Newer checkpoints are ignored: the run passed them over as damaged when it went on
            from an older one. Their files have the right sizes, so they would count as the newest ones, and all good
            ones would be deleted.

    Returns:
        The rule from now on: without `resumed_from` once a newer checkpoint has been verified.
    """
    kept = 0
    for step in _steps(place, report):
        if saved is not None and step > saved:
            continue
        folder = storage.join(place, folder_name(step))
        try:
            manifest = whole_manifest(folder)
            if manifest.run != run:
                continue
            if kept < rule.keep_last or (rule.keep_every and step % rule.keep_every == 0):
                if kept == 0 and rule.resumed_from is not None and step > rule.resumed_from:
                    verify(folder, manifest)
                    rule = replace(rule, resumed_from=None)
                kept += 1
            elif step != rule.resumed_from:
                delete_checkpoint(folder, manifest)
        except NoManifestError:
            if kept:  # an unfinished save that is older than a whole checkpoint
                _clear_unfinished(folder, run, report)
        except TornCheckpointError:
            continue  # not counted, as it is no checkpoint; not removed, as it is evidence of a fault
        except OSError as error:
            report(CleanupFailed(folder, _reason(error)))
    return rule


def _clear_unfinished(folder: str, run: str, report: Callable[[CleanupFailed], None]) -> None:
    """Delete what a save that never ended has left in a folder."""
    try:
        clear_leftovers(folder, run)
        with contextlib.suppress(NoManifestError):
            try:
                whole_manifest(folder)
            except TornCheckpointError:
                # It was alive after all, and has committed what has just been taken from it.
                storage.delete(storage.join(folder, MANIFEST))
        if not storage.list_entries(folder):
            storage.delete_folder(folder)
    except OSError as error:
        report(CleanupFailed(folder, _reason(error)))


def _steps(place: str, report: Callable[[CleanupFailed], None]) -> list[int]:
    """As `checkpoint_steps`; [] if the store does not answer: old checkpoints that stay are no failure of a save."""
    try:
        return checkpoint_steps(place)
    except OSError as error:
        report(CleanupFailed(place, _reason(error), is_place=True))
        return []


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def keep_only(place: str, run: str, step: int, report: Callable[[CleanupFailed], None]) -> None:
    """Delete all checkpoints of `run` in `place` but that of `step`, if it is whole. Failures are as in `prune`."""
    try:
        whole_manifest(storage.join(place, folder_name(step)))
    except (TornCheckpointError, OSError) as error:
        report(CleanupFailed(place, _reason(error), is_place=True))
        return
    for other in _steps(place, report):
        folder = storage.join(place, folder_name(other))
        try:
            if other != step and (manifest := whole_manifest(folder)).run == run:
                delete_checkpoint(folder, manifest)
        except NoManifestError:
            _clear_unfinished(folder, run, report)
        except TornCheckpointError:
            continue
        except OSError as error:
            report(CleanupFailed(folder, _reason(error)))


def delete_checkpoint(folder: str, manifest: Manifest) -> None:
    """Delete one checkpoint, its manifest first. So a deletion that is cut off leaves files, but no torn checkpoint."""
    storage.delete(storage.join(folder, MANIFEST))
    remove_files(folder, [file.name for file in manifest.files.values()])
    if not storage.list_entries(folder):
        storage.delete_folder(folder)
