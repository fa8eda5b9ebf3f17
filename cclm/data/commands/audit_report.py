"""`cclm data audit`: read the audits of runs, print one, compare two."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from cclm import storage
from cclm.data.stored.audit import AUDIT, AuditLine, EpochCount
from cclm.errors import UserError


class SourceEpoch(NamedTuple):
    """What one line of an audit is about."""

    source: str
    epoch: int


Audit = Mapping[SourceEpoch, AuditLine]
"""The lines of an audit file, in its order."""


def read_audit(run: str) -> Audit:
    """The audit of a run. `run` is the run's folder, or its audit file.

    Raises:
        UserError: there is none, or a line of it was not written by `cclm.data.stored.audit`.
    """
    url = run if run.endswith(".jsonl") else f"{run.rstrip('/')}/{AUDIT}"
    try:
        content = storage.read_bytes(url)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{url} does not exist; pre-training and text assignment write it with their first checkpoint, other "
            "fine-tuning has none"
        ) from None
    lines: dict[SourceEpoch, AuditLine] = {}
    for number, text in enumerate(content.splitlines(), 1):
        try:
            line = _parse_line(text)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise UserError(f"{url}:{number} is not a line of an audit; it was changed since it was written") from None
        lines[SourceEpoch(line.source, line.epoch)] = line
    return lines


def _parse_line(text: bytes) -> AuditLine:
    values = json.loads(text.decode())
    return AuditLine(
        source=str(values["source"]),
        epoch=int(values["epoch"]),
        records=int(values["records"]),
        count=EpochCount.from_json(values),
        data=values.get("data"),
    )


def audit_table(audit: Audit) -> str:
    """A table for users: one row for each source and epoch."""
    rows: list[list[str]] = [["source", "epoch", "records", "seen", "skipped", "hash of the seen", ""]]
    for line in audit.values():
        count = line.count
        numbers = [f"{value:,}" for value in (line.records, count.seen, count.skipped.total())]
        rows.append([line.source, str(line.epoch), *numbers, f"{count.seen_hash:016x}", line.verdict])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    )


def audit_differences(first: Audit, second: Audit, first_name: str, second_name: str) -> list[str]:
    """What differs between two runs: a sentence for each source and epoch that differs.

    Args:
        first_name: what the user calls the first run.
        second_name: the same of the second run.
    """
    differences = []
    for key in sorted(first.keys() | second.keys()):
        place = f"{key.source}, epoch {key.epoch}"
        one, two = first.get(key), second.get(key)
        if one is None or two is None:
            differences.append(f"{place}: only in {first_name if two is None else second_name}")
        elif one.records != two.records:
            differences.append(f"{place}: of {one.records:,} and {two.records:,} records; other data")
        elif None not in (one.data, two.data) and one.data != two.data:
            differences.append(f"{place}: the files differ in their records or bytes; other data")
        elif one.count != two.count:
            numbers = f"seen {one.count.seen:,} and {two.count.seen:,}"
            skipped = f"skipped {one.count.skipped.total():,} and {two.count.skipped.total():,}"
            differences.append(f"{place}: {numbers}, {skipped}; " + _compare_hashes(one.count, two.count))
    return differences


def _compare_hashes(one: EpochCount, two: EpochCount) -> str:
    equal = (one.seen_hash, one.skipped_hash) == (two.seen_hash, two.skipped_hash)
    return "the same records, broken in other ways" if equal else "not the same records"
