"""How much other processes use the machine while something is measured."""

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
    below, todo = [], [os.getpid()]
    while todo:
        parent = todo.pop()
        children = [pid for pid, its_parent in parents.items() if its_parent == parent]
        below += children
        todo += children
    return below


def seconds_of_others() -> float:
    """CPU seconds since the start of the machine that other processes than this one and those below it have used.

    A difference of two values is right if no process below this one ends in between.
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
    """Fields of a `stat` file from the third on. They begin behind the second one, a name that may have blanks."""
    return path.read_text().rpartition(")")[2].split()
