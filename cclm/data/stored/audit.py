"""Which records of each source training read: counts by epoch, and a hash that does not depend on their order.

The hash of a set of records is the sum, modulo 2^64, of one well mixed 64-bit word for each record's number. Hashes of
parts of an epoch (of ranks, of workers, of the time before and after a restart) can be added in any order. The sum for
a whole epoch of N records is known. So a line of `audit.jsonl` proves that each record was read exactly once, although
no list of the records is kept. Two data sets of N records have the same numbers and so the same hash. A line therefore
also holds a digest of the number of records and bytes of each file, which does not depend on where the files are.

`cclm.data.commands.audit_report` reads the files that are written here.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from cclm import storage

AUDIT = "audit.jsonl"
"""Name of the file in a run's folder. It is rewritten with every checkpoint, so that both describe the same steps."""

_MASK = 2**64 - 1
_BLOCK = 1 << 20  # records mixed at once


@dataclass
class EpochCount:
    """Records of one source in one epoch, or in a part of one."""

    seen: int = 0
    """Records that training saw at their own place in the order."""
    seen_hash: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Broken records, by the kind of fault. In the place of each one, training saw another record a second time."""
    skipped_hash: int = 0

    def see(self, number: int) -> None:
        """Count the record `number`, which training saw."""
        self.seen += 1
        self.seen_hash = (self.seen_hash + mixed(number)) & _MASK

    def skip(self, number: int, kind: str) -> None:
        """Count the record `number`, which is broken in the way `kind`."""
        self.skipped[kind] += 1
        self.skipped_hash = (self.skipped_hash + mixed(number)) & _MASK

    def add(self, other: EpochCount) -> None:
        """Add the counts of another part of the same epoch."""
        self.seen += other.seen
        self.seen_hash = (self.seen_hash + other.seen_hash) & _MASK
        self.skipped.update(other.skipped)
        self.skipped_hash = (self.skipped_hash + other.skipped_hash) & _MASK

    @property
    def read(self) -> int:
        """Records that were read, good or broken."""
        return self.seen + self.skipped.total()

    def to_json(self) -> dict[str, Any]:
        """The counts as JSON values; hashes as 16 hexadecimal digits."""
        return {
            "seen": self.seen,
            "hash": f"{self.seen_hash:016x}",
            "skipped": dict(sorted(self.skipped.items())),
            "skipped_hash": f"{self.skipped_hash:016x}",
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> EpochCount:
        """The inverse of `to_json`. Raises KeyError, ValueError, TypeError or AttributeError for other values."""
        return EpochCount(
            seen=int(values["seen"]),
            seen_hash=int(values["hash"], 16),
            skipped=Counter({str(kind): int(count) for kind, count in values["skipped"].items()}),
            skipped_hash=int(values["skipped_hash"], 16),
        )


Tally = dict[int, EpochCount]
"""Epoch -> counts, for one source."""


def add_tally(total: Tally, part: Tally) -> None:
    """Add `part` to `total`, epoch by epoch."""
    for epoch, count in part.items():
        total.setdefault(epoch, EpochCount()).add(count)


def tally_to_json(tally: Tally) -> dict[str, Any]:
    """The tally as JSON values, epochs in rising order."""
    return {str(epoch): count.to_json() for epoch, count in sorted(tally.items())}


def tally_from_json(values: Mapping[str, Any]) -> Tally:
    """The inverse of `tally_to_json`; raises as `EpochCount.from_json`."""
    return {int(epoch): EpochCount.from_json(count) for epoch, count in values.items()}


def mixed(number: int) -> int:
    """Hash of one record's number, 64 bits (SplitMix64: Steele, Lea and Flood, 2014)."""
    word = (number + 1) * 0x9E3779B97F4A7C15 & _MASK
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    word = (word ^ word >> 27) * 0x94D049BB133111EB & _MASK
    return word ^ word >> 31


def hash_of_all(records: int) -> int:
    """Hash of the records 0 .. `records` - 1, that is of a whole epoch."""
    total = 0
    for first in range(0, records, _BLOCK):
        word = np.arange(first + 1, min(first + _BLOCK, records) + 1, dtype=np.uint64)
        word *= np.uint64(0x9E3779B97F4A7C15)
        word = (word ^ word >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ word >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        total += int((word ^ word >> np.uint64(31)).sum(dtype=np.uint64))
    return total & _MASK


class FileExtent(NamedTuple):
    """How much a data file holds."""

    records: int
    size: int
    """Bytes."""


def digest_of_files(files: Iterable[FileExtent]) -> str:
    """A digest of the number of records and bytes of each file, in order: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(list(files)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class AuditLine:
    """One epoch of one source, as a line of the file."""

    source: str
    epoch: int
    records: int
    """Records of the source, and so of a whole epoch."""
    count: EpochCount
    data: str | None = None
    """`digest_of_files` of the source; None in lines that earlier versions wrote."""

    @property
    def is_whole(self) -> bool:
        """Whether as many records were read as an epoch has."""
        return self.count.read == self.records

    @property
    def each_once(self) -> bool:
        """Whether every record of the epoch was read exactly once."""
        both = (self.count.seen_hash + self.count.skipped_hash) & _MASK
        return self.is_whole and both == hash_of_all(self.records)

    @property
    def verdict(self) -> str:
        """For users: `each once`, `NOT each once` or `not finished`."""
        if self.each_once:
            return "each once"
        return "NOT each once" if self.count.read >= self.records else "not finished"

    def to_json(self) -> str:
        """The line, without a line break."""
        values = {"source": self.source, "epoch": self.epoch, "records": self.records, "data": self.data}
        values |= self.count.to_json()
        return json.dumps({**values, "each_once": self.each_once}, ensure_ascii=False)


def write_audit(url: str, lines: Iterable[AuditLine]) -> None:
    """Replace the audit file at `url`. A reader sees the old file or the new one, never a part of it."""
    storage.write_atomic(url, "".join(f"{line.to_json()}\n" for line in lines).encode())
