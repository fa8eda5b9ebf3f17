"""The audit of a run: which records all processes saw, over restarts, as `cclm.data.stored.audit` counts them.

A checkpoint holds the counts up to its step, and a run that goes on from it starts from them. So steps that were lost
and are done again count once, with any number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from cclm import distributed
from cclm.data.stored.audit import AUDIT, AuditLine, Tally, add_tally, tally_from_json, tally_to_json, write_audit
from cclm.data.stored.quarantine import ReadCount
from cclm.events import Journal, Notice


class Counted(Protocol):
    """A source that counts (`cclm.data.batches.loader`)."""

    @property
    def num_records(self) -> int: ...

    @property
    def data_digest(self) -> str: ...

    @property
    def tally(self) -> Tally: ...


class RunAudit:
    """Counts of all sources of a run.

    Args:
        earlier: what `collect` returned for the checkpoint that the run goes on from; None at the start of a run.
        journal: gets a notice when the file could not be written.
    """

    def __init__(
        self,
        output_dir: Path,
        sources: Mapping[str, Counted],
        earlier: Mapping[str, Any] | None,
        journal: Journal,
    ) -> None:
        self._journal = journal
        self._path = output_dir / AUDIT
        self._sources = sources
        self._earlier = {kind: tally_from_json(values) for kind, values in (earlier or {}).items()}
        if distributed.rank() == 0:  # the file may hold what a run that was cut off wrote after this checkpoint
            self._write(self._earlier)

    @property
    def earlier(self) -> dict[str, ReadCount]:
        """By source: the records that all processes read up to the checkpoint."""
        return {
            kind: sum((ReadCount(count.read, count.skipped.total()) for count in tally.values()), ReadCount())
            for kind, tally in self._earlier.items()
        }

    def collect(self) -> dict[str, Any]:
        """The counts of the run so far, to be kept in the checkpoint under "audit". The file is written, too.

        Every process calls this at the same step.
        """
        totals: dict[str, Tally] = {kind: {} for kind in self._sources}
        mine = {kind: source.tally for kind, source in self._sources.items()}
        for part in (self._earlier, *distributed.gather_objects(mine)):
            for kind, tally in part.items():
                add_tally(totals.setdefault(kind, {}), tally)
        if distributed.rank() == 0:
            self._write(totals)
        return {kind: tally_to_json(tally) for kind, tally in totals.items()}

    def _write(self, totals: Mapping[str, Tally]) -> None:
        lines = [
            AuditLine(kind, epoch, source.num_records, count, source.data_digest)
            for kind, source in self._sources.items()
            for epoch, count in sorted(totals.get(kind, {}).items())
        ]
        try:
            write_audit(str(self._path), lines)
        except OSError as error:  # no reason to end the run: the checkpoint holds the counts
            reason = error.strerror or error
            self._journal.emit(
                Notice(f"{self._path} could not be written ({reason}); the next checkpoint writes it anew")
            )
