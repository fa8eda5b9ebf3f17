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
    DamagedCheckpointError,
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
        TornCheckpointError: a file is absent or cut.
        DamagedCheckpointError: a file is changed.
        FileNotFoundError: somebody deleted the checkpoint meanwhile.
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
    try:
        check_contents(path, wanted)
        state = dict(json.loads((path / whole.files[STATE].name).read_bytes()))
    except TornCheckpointError as problem:
        raise DamagedCheckpointError(str(problem), whole.attempt) from None
    except (ValueError, KeyError, TypeError) as error:
        reason = f"unreadable state ({type(error).__name__}: {error})"
        raise DamagedCheckpointError(reason, whole.attempt) from None
    return Checkpoint(folder, path, whole, state, copy)


def newest_checkpoint(
    places: Sequence[str | Path],
    report: Callable[[CheckpointSkipped], None],
    roles: Collection[str] = EVERYTHING,
) -> Checkpoint | None:
    """The newest whole checkpoint of a run's folders, or None.

    Another process of the run may save and delete in the meantime. So the folders are listed anew after each checkpoint
    that is passed over.

    Args:
        places: folders of one run. Of equally new checkpoints, that of the first place is taken.
        report: gets an event for every torn checkpoint that is passed over.
    """
    passed_over: set[str] = set()
    while (folder := _newest_folder(places, passed_over)) is not None:
        try:
            return open_checkpoint(folder, roles)
        except DamagedCheckpointError as problem:
            report(CheckpointSkipped(folder, str(problem), problem.attempt))
        except TornCheckpointError as problem:
            report(CheckpointSkipped(folder, str(problem)))
        except FileNotFoundError:
            report(CheckpointSkipped(folder, "it was deleted while it was read"))
        passed_over.add(folder)
    return None


def _newest_folder(places: Sequence[str | Path], but: Collection[str]) -> str | None:
    """The folder with the highest step in its name that is not one of `but`; of equal ones that of the first place."""
    steps = {
        storage.join(str(place), folder_name(step)): step for place in places for step in checkpoint_steps(str(place))
    }
    return max((folder for folder in steps if folder not in but), key=steps.__getitem__, default=None)


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
