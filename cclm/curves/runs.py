"""The runs that are compared: read from their folders, and named so that they can be told apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from cclm import storage
from cclm.errors import UserError
from cclm.metrics.log_file import LOG, resumed_steps
from cclm.metrics.metrics_file import METRICS
from cclm.metrics.metrics_lines import MetricsLines, read_lines


@dataclass(frozen=True)
class Run:
    """One run."""

    name: str
    """Tells it apart from the others."""
    url: str
    """Its folder."""
    metrics: MetricsLines
    resumed: tuple[int, ...] = ()
    """The step after which each start went on that began from a checkpoint."""

    @property
    def notes(self) -> list[str]:
        """What is unusual about its file, as sentences."""
        path = storage.join(self.url, METRICS)
        notes = []
        if self.metrics.steps_back:
            back = self.metrics.steps_back[0]
            notes.append(
                f"{path} goes from step {back.last} back to {back.step}: it holds lines of several runs; the newer "
                "ones are drawn"
            )
        unreadable = self.metrics.unreadable_note(path)
        return notes if unreadable is None else [*notes, unreadable]


def read_runs(urls: Sequence[str]) -> list[Run]:
    """Read runs, each once however often it is named.

    Args:
        urls: folders, local or in a store, or their `metrics.jsonl`.

    Raises:
        UserError: one is no folder of a run, or has no numbers yet.
    """
    folders = {_absolute(folder): folder for folder in map(_folder, urls)}
    return [_read(folder, name) for folder, name in zip(folders.values(), distinct_names(list(folders)), strict=True)]


def distinct_names(folders: Sequence[str]) -> list[str]:
    """The last part of each absolute path or URL, with as many of the parts before it as tell it from the others."""
    parts = [[part for part in folder.split("/") if part] or ["/"] for folder in folders]
    names = []
    for own in parts:
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        names.append("/".join(own[-length:]))
    return names


def _folder(url: str) -> str:
    """The run's folder, in one spelling."""
    url = url.rstrip("/") or "/"
    return (storage.parent(url) or ".") if storage.name(url) == METRICS else url


def _absolute(folder: str) -> str:
    """A local path from the root, so that "." has a name."""
    return os.path.abspath(storage.local_path(folder)) if storage.is_local(folder) else folder


def _read(folder: str, name: str) -> Run:
    try:
        data = storage.read_bytes(storage.join(folder, METRICS))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(_why_no_run(folder)) from None
    metrics = read_lines(data)
    if metrics.last_step is None:
        raise UserError(
            f"{storage.join(folder, METRICS)} holds no numbers yet: a run writes them at the end of each logging "
            "interval (training.log_every)"
        )
    try:
        log = storage.read_bytes(storage.join(folder, LOG)).decode("utf-8", "replace")
    except FileNotFoundError:
        log = ""
    return Run(name, folder, metrics, tuple(resumed_steps(log)))


def _why_no_run(folder: str) -> str:
    if storage.is_folder(folder):
        return f"{folder} holds no {METRICS}, so it is not the folder of a run; name the run's output_dir"
    if storage.exists(folder):
        return f"{folder} is a file; name the folder of a run, its output_dir"
    return f"there is no folder {folder}; name the folder of a run, its output_dir"
