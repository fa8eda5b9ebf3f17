"""Where the files of a run lie: its places, and the local folder that its small files are written to.

A place is a folder, given as a path or URL: `output_dir` and, if set, `output_hdfs`.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Protocol

from cclm import distributed, storage
from cclm.config.output import CheckpointConfig
from cclm.metrics.log_file import LOG
from cclm.preflight.result_folders import check_place
from cclm.training.run_files import BEST, fetch_logs


class OutputSettings(Protocol):
    """The settings of a run's config that say where it saves; those of every task have them."""

    @property
    def output_dir(self) -> str: ...

    @property
    def output_hdfs(self) -> str | None: ...

    @property
    def checkpoints(self) -> CheckpointConfig: ...


class RunPlaces:
    """The places of one run, checked when this object is made. Every process makes one.

    Raises:
        UserError: a place takes no files.
        StoreUnavailable: a place does not answer; it may, later.
    """

    def __init__(self, settings: OutputSettings) -> None:
        by_setting = _places_by_setting(settings)
        self.all: list[str] = [*by_setting.values()]
        """Folders that hold the run, local ones first."""
        scratch = settings.checkpoints.scratch
        is_first = distributed.rank() == 0
        if is_first:
            for name, place in by_setting.items():
                check_place(place, name)
        local = [place for place in self.all if storage.is_local(place)]
        self.temporary: Path | None = None
        """A local folder for the files of this run until it ends, only where all places are remote: on the first
        process, and on those that do not see it."""
        if not local and is_first:
            if scratch is not None:
                Path(scratch).mkdir(parents=True, exist_ok=True)
            self.temporary = Path(tempfile.mkdtemp(prefix="cclm-output-", dir=scratch))
        self.folder = Path(storage.local_path(local[0])) if local else _shared_folder(self.temporary)
        """Local folder for log, metrics and results: what is written there and published is in every place."""
        self.is_shared = _sees_folder_of_first(self.folder)
        """Whether this process sees the folder of the first one; otherwise it has a folder of its own."""
        if not self.is_shared and not local:
            self.temporary = Path(tempfile.mkdtemp(prefix="cclm-output-", dir=scratch))
            self.folder = self.temporary
        if is_first:
            fetch_logs(self.all, self.folder)
        else:
            self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def log_name(self) -> str:
        """The log file of this process: that of the run, where it sees it."""
        return LOG if self.is_shared else f"log-{distributed.rank():05d}.txt"

    @property
    def best(self) -> list[str]:
        """The folder of the best checkpoint in each place."""
        return [storage.join(place, BEST) for place in self.all]

    @property
    def mirrors(self) -> list[str]:
        """Every place but `folder`: these get copies of the small files."""
        return [place for place in self.all if Path(storage.local_path(place)) != self.folder]

    def remove_temporary(self) -> None:
        """Delete `temporary`, if there is one."""
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)


def _sees_folder_of_first(folder: Path) -> bool:
    """Whether `folder` is the first process's, on a disk that both share. All processes must call it."""
    token = folder / f".shared-{secrets.token_hex(8)}"
    if distributed.rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        token.touch()
    name = distributed.gather_objects(token.name)[0]
    is_there = (folder / name).exists()
    distributed.barrier()
    if distributed.rank() == 0:
        token.unlink(missing_ok=True)
    return is_there


def _shared_folder(folder: Path | None) -> Path:
    """The folder that the first process gives, on every process."""
    shared = distributed.gather_objects(folder)[0]
    assert shared is not None, "the first process has made one"
    return shared


def _places_by_setting(settings: OutputSettings) -> dict[str, str]:
    """Setting -> folder; local ones first, the same folder once."""
    places = {"output_dir": settings.output_dir}
    if settings.output_hdfs is not None and settings.output_hdfs.rstrip("/") != settings.output_dir.rstrip("/"):
        places["output_hdfs"] = settings.output_hdfs
    return dict(sorted(places.items(), key=lambda item: not storage.is_local(item[1])))
