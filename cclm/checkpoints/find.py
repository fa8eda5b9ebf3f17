"""Finding checkpoints and reading what they hold, on any store. Only whole checkpoints are returned."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cclm import storage
from cclm.checkpoints.commit import check_contents, whole_manifest
from cclm.checkpoints.manifest import (
    MANIFEST,
    MODEL,
    OPTIMIZER,
    STATE,
    Manifest,
    NoManifestError,
    TornCheckpointError,
    folder_name,
)
from cclm.checkpoints.retention import checkpoint_steps
from cclm.errors import UserError
from cclm.events import CheckpointSkipped
from cclm.metrics.sentences import Sentences

EVERYTHING = (MODEL, OPTIMIZER, STATE)
WEIGHTS = (MODEL, STATE)


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on a local disk, whose bytes were compared with the checksums of its manifest."""

    source: str
    """Its folder, as found: a path or URL."""
    path: Path
    """Where its files can be read: the same folder, or a copy that lives as long as this object."""
    manifest: Manifest
    state: dict[str, Any]
    """Contents of the state file."""
    copy: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False, compare=False)
    """Holds the files of a remote checkpoint; deleted with this object."""

    @property
    def step(self) -> int:
        """Outer steps done."""
        return self.manifest.step

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(entry.size for entry in self.manifest.files.values())

    def saved_time(self) -> float | None:
        """Unix time at which it was whole; None where its store does not tell, or it is no longer there."""
        try:
            return storage.modified(storage.join(self.source, MANIFEST))
        except OSError:
            return None

    def file(self, role: str) -> Path:
        """The file of a role: model, optimizer, state."""
        return self.path / self.manifest.files[role].name


def open_checkpoint(folder: str | Path, roles: Collection[str] = EVERYTHING) -> Checkpoint:
    """Read and verify one checkpoint folder; a remote one is copied to a local disk.

    Args:
        roles: the files that are wanted, and so verified. Roles that the checkpoint does not have are ignored.

    Raises:
        TornCheckpointError: a file is absent, cut, or changed.
    """
    folder = str(folder)
    whole = whole_manifest(folder)
    wanted = replace(whole, files={role: entry for role, entry in whole.files.items() if role in roles})
    if storage.is_local(folder):
        path, copy = Path(storage.local_path(folder)), None
    else:
        copy = tempfile.TemporaryDirectory(prefix="cclm-checkpoint-")
        path = Path(copy.name)
        for entry in wanted.files.values():
            storage.download(storage.join(folder, entry.name), str(path / entry.name))
    check_contents(path, wanted)
    try:
        state = dict(json.loads((path / whole.files[STATE].name).read_bytes()))
    except (ValueError, KeyError, TypeError) as error:
        raise TornCheckpointError(f"unreadable state ({type(error).__name__}: {error})") from None
    return Checkpoint(folder, path, whole, state, copy)


def newest_checkpoint(
    places: Sequence[str | Path],
    report: Callable[[CheckpointSkipped], None],
    roles: Collection[str] = EVERYTHING,
) -> Checkpoint | None:
    """The newest whole checkpoint of a run's folders, or None.

    Args:
        places: folders of one run. Of equally new checkpoints, that of the first place is taken.
        report: gets an event for every torn checkpoint that is passed over.
    """
    found = [(step, str(place)) for place in places for step in checkpoint_steps(str(place))]
    for step, place in sorted(found, key=lambda each: -each[0]):  # stable: equally new ones stay in order of places
        folder = storage.join(place, folder_name(step))
        try:
            return open_checkpoint(folder, roles)
        except TornCheckpointError as problem:
            report(CheckpointSkipped(folder, str(problem)))
    return None


def is_checkpoint_folder(url: str | Path) -> bool:
    """Whether `url` is a folder, and so not a published file."""
    return storage.is_folder(str(url))


def find_checkpoint(url: str | Path, roles: Collection[str] = EVERYTHING) -> Checkpoint:
    """The checkpoint in a folder: the folder itself, or the newest whole one of a run's folder.

    Raises:
        UserError: there is none, or it is torn.
    """
    url = str(url)
    if checkpoint_steps(url):
        found = newest_checkpoint([url], Sentences(print).handle, roles)
        if found is None:
            raise UserError(f"no checkpoint in {url} is whole (see above)")
        return found
    try:
        return open_checkpoint(url, roles)
    except NoManifestError as problem:
        raise UserError(
            f"{url} is no checkpoint: {problem}. Give a checkpoint's folder, as output/demo/step-00000900, the "
            "folder of a run that has saved one, as output/demo, or a published .th file"
        ) from None
    except TornCheckpointError as problem:
        raise UserError(f"{url} is not a whole checkpoint: {problem}") from None


def holds_checkpoints(place: str) -> bool:
    """Whether anything in a run's folder says that it is a checkpoint, whole or torn."""
    return any(
        storage.exists(storage.join(storage.join(place, folder_name(step)), MANIFEST))
        for step in checkpoint_steps(place)
    )
