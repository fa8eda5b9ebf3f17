"""The audit of a run: what all processes saw, over restarts, as `cclm.data.stored.audit` counts it.

A checkpoint holds the counts up to its step. A run that goes on from it starts from them, so steps that were lost and
are made again count once, with any number of processes.
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

    num_records: int
    data_digest: str
    tally: Tally


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
        if distributed.rank() == 0:  # what a run that was cut off wrote after its checkpoint is forgotten
            self._write(self._earlier)

    @property
    def earlier(self) -> dict[str, ReadCount]:
        """What all processes read of each source up to the checkpoint."""
        return {
            kind: sum((ReadCount(count.read, count.skipped.total()) for count in tally.values()), ReadCount())
            for kind, tally in self._earlier.items()
        }

    def collect(self) -> dict[str, Any]:
        """The counts of the run so far, to be kept in the checkpoint under "audit"; writes the file, too.

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
        except OSError as error:  # the checkpoint holds the counts, and whether saves may fail is not for us to say
            reason = error.strerror or error
            self._journal.emit(
                Notice(f"{self._path} could not be written ({reason}); the next checkpoint writes it anew")
            )
