"""Whether others use the machine while something is measured."""

from __future__ import annotations

import os
from pathlib import Path


def descendants() -> list[int]:
    """Process ids below this process."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(_fields(path)[1])
        except OSError:
            continue
    found, todo = [], [os.getpid()]
    while todo:
        parent = todo.pop()
        children = [pid for pid, its in parents.items() if its == parent]
        found += children
        todo += children
    return found


def seconds_of_others() -> float:
    """CPU seconds since the start of the machine that neither this process nor those below it have used.

    Differences of it mean something as long as none of them ends in between.
    """
    user, nice, system, _, _, *interrupts_and_stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
    ours = 0
    for pid in [os.getpid(), *descendants()]:
        try:
            ours += sum(int(value) for value in _fields(Path(f"/proc/{pid}/stat"))[11:13])
        except OSError:
            continue
    return (user + nice + system + sum(interrupts_and_stolen) - ours) / os.sysconf("SC_CLK_TCK")


def _fields(path: Path) -> list[str]:
    """Fields of a `stat` file from the third on: the second, a name, may hold blanks."""
    return path.read_text().rpartition(")")[2].split()
