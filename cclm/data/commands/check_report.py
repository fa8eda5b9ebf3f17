"""What `cclm data check` found: one report for each source or split, and the table of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class SplitReport:
    """What was found in one source or split; a row of the table."""

    name: str
    split: str = ""
    language: str = ""
    files: int = 0
    count: int = 0
    """Records, or annotations that are used."""
    examined: int = 0
    """Records or images that were read."""
    broken: Counter[str] = field(default_factory=Counter)
    """Examined records or images that cannot be used, by kind of fault."""
    dropped: int = 0
    """Annotations that the data set's own rules leave out."""
    detail: str = ""
    problem: str | None = None
    """Why a run with this config would be refused."""

    @property
    def sentence(self) -> str | None:
        """The problem with its place, for users; None if there is no problem."""
        if not self.problem:
            return None
        if self.problem.startswith(self.name):
            return self.problem
        place = " ".join(part for part in (self.name, self.split, self.language) if part)
        return f"{place}: {self.problem}"


def check_table(reports: Iterable[SplitReport]) -> str:
    """The table for users: one line for each report, columns aligned."""
    cells = [["source", "split", "language", "files", "records", "dropped", "read", "broken", ""]]
    for report in reports:
        broken = ", ".join(f"{count} {kind}" for kind, count in sorted(report.broken.items())) or "0"
        numbers = [f"{number:,}" for number in (report.files, report.count, report.dropped, report.examined)]
        note = "NOT usable" if report.problem else report.detail
        cells.append([report.name, report.split, report.language, *numbers, broken, note])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    text = []
    for line in cells:
        left = [cell.ljust(width) for cell, width in zip(line[:3], widths[:3], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(line[3:8], widths[3:8], strict=True)]
        text.append("  ".join([*left, *right, line[8]]).rstrip())
    return "\n".join(text)
