"""Broken records: where each one lies and what is wrong with it, and when there are too many to go on."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from cclm.config.sources import BrokenRecordsConfig
from cclm.errors import UserError

log = logging.getLogger(__name__)

QUARANTINE = "quarantine-*.jsonl"
"""Names of the files in a run's folder: one for each process, since several machines cannot append to one file."""


@dataclass(frozen=True)
class Skipped:
    """A record that was skipped at its own place of the order (not while looking for a replacement)."""

    kind: str
    detail: str
    path: str
    offset: int
    """Byte of the file at which the record starts."""
    size: int
    """Bytes."""
    line: int | None
    """From 1, where counting lines is cheap."""
    is_new: bool
    """False if this process named the record before, in an earlier epoch."""

    @property
    def place(self) -> str:
        return f"{self.path} at byte {self.offset}" if self.line is None else f"{self.path}:{self.line}"


class Quarantine:
    """Appends broken records to one process's file, each of them once, over restarts too."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._path = folder / QUARANTINE.replace("*", f"{rank:05d}")
        self._known: set[tuple[str, int]] | None = None  # read at first need: a new run moves old files aside first

    def add(self, source: str, skipped: Skipped) -> None:
        """Keep a record's place and reason. What the disk does not take is logged instead, and training goes on."""
        if self._known is None:
            self._known = _known_records(self._path)
        key = (skipped.path, skipped.offset)
        if key in self._known:
            return
        self._known.add(key)
        values = dict(source=source, path=skipped.path, offset=skipped.offset, size=skipped.size, line=skipped.line)
        text = json.dumps({**values, "kind": skipped.kind, "reason": skipped.detail}, ensure_ascii=False)
        try:
            if not self._path.parent.is_dir():  # the first process made it on its own machine
                self._path.parent.mkdir(parents=True, exist_ok=True)
                log.warning("broken records that this machine reads are listed here alone, in %s", self._path)
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text + "\n")
        except OSError as error:
            log.warning("%s cannot be written (%s); the broken record was: %s", self._path, error.strerror, text)


@dataclass(frozen=True)
class ReadCount:
    """Records of a source, over all processes."""

    read: int = 0
    """Those whose turn came, the broken ones included."""
    broken: int = 0

    def __add__(self, other: ReadCount) -> ReadCount:
        return ReadCount(self.read + other.read, self.broken + other.broken)

    def is_beyond(self, rate: float) -> bool:
        return self.broken > rate * self.read


def refuse_too_many(source: str, now: ReadCount, before: ReadCount, limits: BrokenRecordsConfig) -> None:
    """Stop when more of a source is broken than the config puts up with.

    Args:
        source: key of the source in the config.
        now: since the run was started or went on last. Where files were mended meanwhile, it decides.
        before: up to the checkpoint that it went on from.

    Raises:
        UserError: with the numbers, and where the records are listed.
    """
    run = now + before
    if run.read >= limits.min_records and run.is_beyond(limits.max_rate) and now.is_beyond(limits.max_rate):
        raise UserError(
            f"{source}: {run.broken:,} of {run.read:,} records are broken, more than data.broken.max_rate = "
            f"{limits.max_rate:g} "
            f"allows; {QUARANTINE} in the output folder lists them. Mend the files, or raise the rate"
        )


def _known_records(path: Path) -> set[tuple[str, int]]:
    """What an earlier run of this process listed; a line that was cut off is passed over."""
    known = set()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            values = json.loads(line)
            known.add((values["path"], values["offset"]))
        except (ValueError, KeyError, TypeError):
            continue
    return known
