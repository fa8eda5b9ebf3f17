"""Control groups of a cluster: one folder of its own in every hierarchy, all removed with the cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from .common import ClusterError


def _mounted(*kinds: str) -> list[Path]:
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] in kinds:
            found.append(Path(before.split()[4]))
    return found


def everywhere() -> list[Path]:
    """Every hierarchy: beside version 1 there may be a version 2, where container runtimes make groups too."""
    return _mounted("cgroup", "cgroup2")


def hierarchies() -> list[Path]:
    """Where the version-1 hierarchies are mounted."""
    found = _mounted("cgroup")
    if not found:
        raise ClusterError(
            "this machine has no cgroup v1 hierarchies, the only kind this package was tried on; "
            "use --kubeconfig FILE with a cluster made by another tool"
        )
    return found


def create(name: str) -> None:
    """Make the group in every hierarchy; a cpuset is empty, and holds no process, until its parent's is copied."""
    for root in hierarchies():
        folder = root
        for part in Path(name).parts:
            folder /= part
            folder.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if (folder / setting).exists():
                    (folder / setting).write_text((folder.parent / setting).read_text())


def join(name: str) -> None:
    """Move the calling process into the group."""
    for root in hierarchies():
        (root / name / "cgroup.procs").write_text(str(os.getpid()))


def resident_bytes(name: str) -> int:
    """Memory that the processes of the group, and of groups below it, have in use (files mapped by them included)."""
    total = 0
    for line in _memory_stat(name).splitlines():
        key, _, value = line.partition(" ")
        if key in ("total_rss", "total_mapped_file"):
            total += int(value)
    return total


def _memory_stat(name: str) -> str:
    for root in hierarchies():
        with contextlib.suppress(FileNotFoundError):
            return (root / name / "memory.stat").read_text()
    return ""


def processes(name: str) -> set[int]:
    """Every process in the group or below it."""
    found: set[int] = set()
    for root in everywhere():
        for folder in [root / name, *_below(root / name)]:
            with contextlib.suppress(OSError):
                found.update(int(word) for word in (folder / "cgroup.procs").read_text().split())
    return found


def _below(group: Path) -> list[Path]:
    """The groups below one, deepest first; they may vanish while they are listed, which `os.walk` does not mind."""
    return [Path(folder) for folder, _, _ in os.walk(group, topdown=False) if folder != str(group)]


def remove(name: str, timeout: float = 20) -> None:
    """Kill what is left in the group and remove it from everywhere."""
    end = time.monotonic() + timeout
    while True:
        for pid in processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for root in everywhere():
            # Deepest first: a group can be removed only when nothing is below it.
            for folder in [*_below(root / name), root / name]:
                with contextlib.suppress(OSError):
                    folder.rmdir()
        left = [root / name for root in everywhere() if (root / name).exists()]
        if not left:
            return
        if time.monotonic() > end:
            raise ClusterError(f"the control group {left[0]} could not be removed: something in it does not end")
        time.sleep(0.1)
