"""What training saw of each source: counts by epoch, and a hash of the records that does not depend on their order.

The hash of a set of records is the sum, modulo 2^64, of a mixed 64-bit word of each record's number. Parts of an epoch
(ranks, workers, the time before and after a restart) add up, in any order. A whole epoch of N records has a known sum,
so a line of `audit.jsonl` proves that each record was read once, without keeping which ones were. Numbers do not tell
data apart, so a line also has a digest of how many records and bytes each file has, wherever the files are.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cclm import storage
from cclm.errors import UserError

AUDIT = "audit.jsonl"
"""Name of the file in a run's folder; rewritten with every checkpoint, so that it tells of the same steps."""

_MASK = 2**64 - 1
_BLOCK = 1 << 20  # records mixed at once


@dataclass
class EpochCount:
    """Records of one source in one epoch, or in a part of one."""

    seen: int = 0
    """Records that training saw at their own place of the order."""
    seen_hash: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Broken records by kind; others were seen twice in their place."""
    skipped_hash: int = 0

    def see(self, number: int) -> None:
        self.seen += 1
        self.seen_hash = (self.seen_hash + mixed(number)) & _MASK

    def skip(self, number: int, kind: str) -> None:
        self.skipped[kind] += 1
        self.skipped_hash = (self.skipped_hash + mixed(number)) & _MASK

    def add(self, other: EpochCount) -> None:
        self.seen += other.seen
        self.seen_hash = (self.seen_hash + other.seen_hash) & _MASK
        self.skipped.update(other.skipped)
        self.skipped_hash = (self.skipped_hash + other.skipped_hash) & _MASK

    @property
    def read(self) -> int:
        """Records whose turn came, good or broken."""
        return self.seen + self.skipped.total()

    def to_json(self) -> dict[str, Any]:
        return {
            "seen": self.seen,
            "hash": f"{self.seen_hash:016x}",
            "skipped": dict(sorted(self.skipped.items())),
            "skipped_hash": f"{self.skipped_hash:016x}",
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> EpochCount:
        hashes = int(values["hash"], 16), int(values["skipped_hash"], 16)
        skipped = Counter({str(kind): int(count) for kind, count in values["skipped"].items()})
        return EpochCount(int(values["seen"]), hashes[0], skipped, hashes[1])


Tally = dict[int, EpochCount]
"""epoch -> counts of one source."""


def add_tally(total: Tally, part: Tally) -> None:
    """Add `part` to `total`, epoch by epoch."""
    for epoch, count in part.items():
        total.setdefault(epoch, EpochCount()).add(count)


def tally_to_json(tally: Tally) -> dict[str, Any]:
    return {str(epoch): count.to_json() for epoch, count in sorted(tally.items())}


def tally_from_json(values: Mapping[str, Any]) -> Tally:
    return {int(epoch): EpochCount.from_json(count) for epoch, count in values.items()}


def mixed(number: int) -> int:
    """64 well mixed bits of a record's number (SplitMix64, Steele et al. 2014)."""
    word = (number + 1) * 0x9E3779B97F4A7C15 & _MASK
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    word = (word ^ word >> 27) * 0x94D049BB133111EB & _MASK
    return word ^ word >> 31


def hash_of_all(records: int) -> int:
    """The hash of the records 0 .. `records` - 1, all of an epoch."""
    total = 0
    for first in range(0, records, _BLOCK):
        word = np.arange(first + 1, min(first + _BLOCK, records) + 1, dtype=np.uint64)
        word *= np.uint64(0x9E3779B97F4A7C15)
        word = (word ^ word >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ word >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        total += int((word ^ word >> np.uint64(31)).sum(dtype=np.uint64))
    return total & _MASK


def digest_of_files(files: Iterable[tuple[int, int]]) -> str:
    """What tells data apart: a digest of the records and bytes of each file, in order."""
    return hashlib.sha256(json.dumps(list(files)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class AuditLine:
    """A source's epoch, as a line of the file."""

    source: str
    epoch: int
    records: int
    """Records of the source: what a whole epoch has."""
    count: EpochCount
    data: str | None = None
    """`digest_of_files`; None in lines of earlier versions."""

    @property
    def is_whole(self) -> bool:
        return self.count.read == self.records

    @property
    def each_once(self) -> bool:
        """Whether the epoch is whole and every record had its turn exactly once."""
        both = (self.count.seen_hash + self.count.skipped_hash) & _MASK
        return self.is_whole and both == hash_of_all(self.records)

    @property
    def verdict(self) -> str:
        if self.each_once:
            return "each once"
        return "NOT each once" if self.count.read >= self.records else "not finished"

    def to_json(self) -> str:
        values = {"source": self.source, "epoch": self.epoch, "records": self.records, "data": self.data}
        values |= self.count.to_json()
        return json.dumps({**values, "each_once": self.each_once}, ensure_ascii=False)


def write_audit(url: str, lines: Iterable[AuditLine]) -> None:
    """Replace the file, whole."""
    storage.write_atomic(url, "".join(f"{line.to_json()}\n" for line in lines).encode())


def read_audit(run: str) -> dict[tuple[str, int], AuditLine]:
    """(source, epoch) -> line, of a run's folder or its audit file.

    Raises:
        UserError: there is none, or a line of it is not one of ours.
    """
    url = run if run.endswith(".jsonl") else f"{run.rstrip('/')}/{AUDIT}"
    try:
        content = storage.read_bytes(url)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{url} does not exist; pre-training and text assignment write it with their first checkpoint, other "
            "fine-tuning has none"
        ) from None
    lines = {}
    for number, line in enumerate(content.splitlines(), 1):
        try:
            values = json.loads(line.decode())
            count = EpochCount.from_json(values)
            key = str(values["source"]), int(values["epoch"])
            lines[key] = AuditLine(*key, int(values["records"]), count, values.get("data"))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise UserError(f"{url}:{number} is not a line of an audit; it was changed since it was written") from None
    return lines


def audit_table(lines: Mapping[tuple[str, int], AuditLine]) -> str:
    """One row a source and epoch."""
    rows = [("source", "epoch", "records", "seen", "skipped", "hash of the seen", "")]
    for line in lines.values():
        count = line.count
        numbers = (f"{value:,}" for value in (line.records, count.seen, count.skipped.total()))
        rows.append((line.source, str(line.epoch), *numbers, f"{count.seen_hash:016x}", line.verdict))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    )


def audit_differences(
    first: Mapping[tuple[str, int], AuditLine], second: Mapping[tuple[str, int], AuditLine], names: tuple[str, str]
) -> list[str]:
    """What differs between two runs, a sentence a source and epoch; `names` are what the user calls them."""
    found = []
    for key in sorted(first.keys() | second.keys()):
        place = f"{key[0]}, epoch {key[1]}"
        one, two = first.get(key), second.get(key)
        if one is None or two is None:
            found.append(f"{place}: only in {names[0] if two is None else names[1]}")
        elif one.records != two.records:
            found.append(f"{place}: of {one.records:,} and {two.records:,} records; other data")
        elif None not in (one.data, two.data) and one.data != two.data:
            found.append(f"{place}: the files differ in their records or bytes; other data")
        elif one.count != two.count:
            numbers = f"seen {one.count.seen:,} and {two.count.seen:,}"
            skipped = f"skipped {one.count.skipped.total():,} and {two.count.skipped.total():,}"
            found.append(f"{place}: {numbers}, {skipped}; " + _hashes(one.count, two.count))
    return found


def _hashes(one: EpochCount, two: EpochCount) -> str:
    equal = (one.seen_hash, one.skipped_hash) == (two.seen_hash, two.skipped_hash)
    return "the same records, broken in other ways" if equal else "not the same records"
