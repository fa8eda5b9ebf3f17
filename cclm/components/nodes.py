"""`-j [MIN:]NODES[xPROCESSES]`: how many nodes a job has, and how many processes run on each."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cclm.errors import UserError

_FORM = re.compile(r"(?:(\d+):)?(\d+)(?:x(\d+))?", re.ASCII)


@dataclass(frozen=True)
class Nodes:
    """The nodes of a job."""

    least: int
    """Nodes that the job needs to run."""
    most: int
    """Nodes that the job asks for. If it is above `least`, the job goes on while nodes come and leave."""
    processes: int | None
    """Training processes on each node; None: one on each of its GPUs, or one where it has none."""

    @classmethod
    def parse(cls, text: str) -> Nodes:
        """Read what `-j` was given.

        Raises:
            UserError: it does not have that form, or the numbers contradict each other.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise UserError(
                f"-j {text}: give nodes x processes on each, as 2x8, or the least nodes before them, as 1:2x8"
            )
        most, processes = int(match[2]), None if match[3] is None else int(match[3])
        least = most if match[1] is None else int(match[1])
        if 0 in (least, most, processes):
            raise UserError(f"-j {text}: nodes and processes are counted from 1")
        if least > most:
            raise UserError(f"-j {text}: the least nodes come first, as {most}:{least}{text[match.end(2) :]}")
        return cls(least, most, processes)

    @property
    def is_elastic(self) -> bool:
        """Whether the job goes on while nodes come and leave."""
        return self.least < self.most

    @property
    def range(self) -> str:
        """The number of nodes as torchrun's `--nnodes` takes it."""
        return f"{self.least}:{self.most}" if self.is_elastic else str(self.most)
