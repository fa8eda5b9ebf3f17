"""The files of a run's folder: their names, and what is done with those of an earlier run or start."""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cclm import storage
from cclm.checkpoints.manifest import MANIFEST, folder_name
from cclm.checkpoints.retention import checkpoint_steps
from cclm.data.stored.audit import AUDIT
from cclm.data.stored.quarantine import QUARANTINE
from cclm.metrics.log_file import LOG
from cclm.metrics.metrics_file import METRICS
from cclm.metrics.results import PREDICTIONS, RESULTS
from cclm.metrics.status_file import EVALUATION, STATUS
from cclm.metrics.tensorboard_files import EVALUATION_FOLDER
from cclm.metrics.tensorboard_files import FOLDER as TENSORBOARD
from cclm.training.held_out import RESULT
from cclm.training.run_folder import RUN

BEST = "best"
"""Folder of the best checkpoint in each place."""

KEPT_FILES = (
    METRICS,
    LOG,
    "log-*.txt",
    STATUS,
    EVALUATION,
    RESULT,
    AUDIT,
    QUARANTINE,
    RESULTS,
    f"{PREDICTIONS}/*",
    f"{TENSORBOARD}/*",
    f"{EVALUATION_FOLDER}/*",
)
"""What a run writes beside its checkpoints, as names or patterns."""


def fetch_logs(places: Sequence[str], folder: Path, newer: str | None = None) -> None:
    """Bring log and metrics to `folder`, a local one, so that a run appends to what was written elsewhere before.

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
                fetch(remote, local)


def fetch(remote: str, local: Path) -> None:
    """Copy a small file that another process of the run, which was cut off, may replace meanwhile.

    `read_bytes` takes one version of it, where `download` of parts would fail.
    """
    storage.write_atomic(str(local), storage.read_bytes(remote))


def set_aside(place: str, but: str | None = None) -> None:
    """Take what an earlier run left in `place` out of the way; nothing is deleted.

    In a local folder it moves into a new folder there. Stores cannot move: log, metrics and results are copied into
    such a folder, and checkpoints stay where they are, with their manifests under another name.

    Args:
        but: a checkpoint's folder that stays as it is.
    """
    folders = [storage.join(place, folder_name(step)) for step in checkpoint_steps(place)]
    folders = [folder for folder in folders if folder != (but or "").rstrip("/")]
    if storage.is_local(place):
        _set_aside_local(Path(storage.local_path(place)), [Path(storage.local_path(folder)).name for folder in folders])
    else:
        _set_aside_remote(place, folders)


def _set_aside_local(root: Path, checkpoints: Sequence[str]) -> None:
    """Move the files of a run, and the checkpoints of these names, into a new folder."""
    kept = [pattern.partition("/")[0] for pattern in KEPT_FILES]  # a folder of files moves as a whole
    names = [*checkpoints, *kept, RUN, BEST]
    paths = sorted({path for name in names for path in root.glob(name)})
    if paths:
        folder = root / _name_aside(lambda name: (root / name).exists())
        folder.mkdir()
        for path in paths:
            path.rename(folder / path.name)


def _set_aside_remote(place: str, checkpoints: Sequence[str]) -> None:
    """Copy the files of a run into a new folder; rename the manifests in these checkpoint folders and of the best."""
    best = storage.join(place, BEST)
    folders = [*checkpoints, *(storage.join(best, folder_name(step)) for step in checkpoint_steps(best))]

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
    """A free name with the time in it. The time alone is not enough.

    Two runs may be set aside within a second, and clocks may be set back.
    """
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
