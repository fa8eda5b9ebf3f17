"""Broken records: where each one is, what is wrong with it, and when there are too many of them to go on."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from cclm.config.sources import BrokenRecordsConfig
from cclm.errors import UserError

log = logging.getLogger(__name__)

QUARANTINE = "quarantine-*.jsonl"
"""Names of the files in a run's folder. Each process has its own, since several machines cannot append to one file."""


def quarantine_name(rank: int) -> str:
    """The file of one process."""
    return QUARANTINE.replace("*", f"{rank:05d}")


@dataclass(frozen=True)
class Skipped:
    """A broken record that was skipped at its own place in the order, not as a replacement of another."""

    kind: str
    detail: str
    path: str
    offset: int
    """Byte of the file at which the record starts."""
    size: int
    """Bytes."""
    line: int | None
    """Line of the file, from 1. None where lines cannot be counted cheaply."""
    is_new: bool
    """False if this process has reported the record already, in an earlier epoch."""

    @property
    def place(self) -> str:
        """The file, with the line or the byte, for messages."""
        return f"{self.path} at byte {self.offset}" if self.line is None else f"{self.path}:{self.line}"


class Quarantine:
    """Appends broken records to the file of one process. Each record is listed once, also after a restart."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._path = folder / quarantine_name(rank)
        # (path, offset) of listed records; read when first needed, since a new run first moves old files away.
        self._known: set[tuple[str, int]] | None = None

    def add(self, source: str, skipped: Skipped) -> None:
        """List a broken record. If the disk refuses it, the line is logged instead, and training goes on."""
        if self._known is None:
            self._known = _known_records(self._path)
        key = (skipped.path, skipped.offset)
        if key in self._known:
            return
        self._known.add(key)
        values = dict(source=source, path=skipped.path, offset=skipped.offset, size=skipped.size, line=skipped.line)
        text = json.dumps({**values, "kind": skipped.kind, "reason": skipped.detail}, ensure_ascii=False)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text + "\n")
        except OSError as error:
            log.warning("%s cannot be written (%s); the broken record was: %s", self._path, error.strerror, text)


@dataclass(frozen=True)
class ReadCount:
    """Number of records of a source that all processes read."""

    read: int = 0
    """Includes the broken ones."""
    broken: int = 0

    def __add__(self, other: ReadCount) -> ReadCount:
        return ReadCount(self.read + other.read, self.broken + other.broken)

    def is_beyond(self, rate: float) -> bool:
        """Whether a larger part than `rate` is broken."""
        return self.broken > rate * self.read


def refuse_too_many(source: str, now: ReadCount, before: ReadCount, limits: BrokenRecordsConfig) -> None:
    """Stop a run if more records of a source are broken than the config allows.

    The rate has to be too high in `now` alone as well. So a run goes on after its files were mended.

    Args:
        source: key of the source in the config.
        now: counts since the last start of the run.
        before: counts up to the checkpoint from which that start went on.

    Raises:
        UserError: too many are broken; with the numbers, and where the records are listed.
    """
    run = now + before
    if run.read >= limits.min_records and run.is_beyond(limits.max_rate) and now.is_beyond(limits.max_rate):
        raise UserError(
            f"{source}: {run.broken:,} of {run.read:,} records are broken, more than data.broken.max_rate = "
            f"{limits.max_rate:g} "
            f"allows; {QUARANTINE} in the output folder lists them. Mend the files, or raise the rate"
        )


def _known_records(path: Path) -> set[tuple[str, int]]:
    """(path, offset) of the records that the file lists. A line that was cut off is passed over."""
    known = set()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            values = json.loads(line)
            known.add((values["path"], values["offset"]))
        except (ValueError, KeyError, TypeError):
            continue
    return known
