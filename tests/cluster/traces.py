"""What a cluster could leave on the machine, and how to look for it: for the tests that say that nothing is left."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from . import cgroups, linux
from .cluster import Cluster
from .common import cache_folder, wait_for
from .teardown import cgroup_of

# Where container programs like to leave folders. The cache itself is elsewhere.
_PLACES = ("/run", "/var/lib", "/var/log", "/etc", "/opt", "/usr/libexec", "/usr/local", "/tmp", "/var/tmp")
# What a kubelet sets for the whole machine where it may.
_SETTINGS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")
_SETTINGS += ("kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes", "net/ipv4/ip_forward")
# Other work on this machine makes and ends links, mounts and files of its own: ours carry these words.
_LINKS = ("nodes", "to-node", "veth", "cni")
_WORDS = ("kube", "cni", "containerd", "netns", "flex", "buildah", "cclm-lib", "cclm-run", "cclm-log")
# At the start of a word only: others' temporary files have random letters, digits and _ in their names.
_OURS = re.compile(rf"(?<![A-Za-z0-9_])(?:{'|'.join(_WORDS)})")


@dataclass(frozen=True)
class Traces:
    """Names of what could come from a cluster, and the kernel's settings."""

    links: frozenset[str]
    mounts: frozenset[str]
    files: frozenset[str]
    settings: tuple[str, ...]


def of_machine() -> Traces:
    """What is there now, as the machine itself sees it."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    files = [f"{place}/{name}" for place in _PLACES if Path(place).is_dir() for name in os.listdir(place)]
    return Traces(
        links=frozenset(path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith(_LINKS)),
        mounts=frozenset(line for line in mounts if _OURS.search(line) or str(cache_folder()) in line),
        files=frozenset(name for name in files if _OURS.search(name)),
        settings=tuple(Path("/proc/sys", name).read_text() for name in _SETTINGS),
    )


def members(cluster: Cluster) -> dict[int, str | None]:
    """Every process of a cluster, its pods' too, with the moment it began."""
    return {pid: linux.start_time(pid) for pid in cgroups.processes(cluster.settings["cgroup"])}


def living(processes: dict[int, str | None]) -> list[int]:
    """Those of these processes that still run."""
    return [pid for pid, began in processes.items() if began and linux.start_time(pid) == began]


def mentioning(word: str) -> list[str]:
    """Command lines of processes that name this, such as a cluster's folder."""
    return [text for text in map(command_line, Path("/proc").glob("[0-9]*")) if word in text]


def command_line(process: Path) -> str:
    """The words with which a process was started, in one line; nothing if it is gone."""
    try:
        return (process / "cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def groups(cluster: Cluster) -> list[Path]:
    """The control groups of a cluster that are there."""
    found = [root / cgroup_of(cluster.folder) for root in cgroups.everywhere()]
    return [group for group in found if group.exists()]


def assert_nothing_of(cluster: Cluster) -> None:
    """No folder, no control group, no process of this cluster is there."""
    assert not cluster.folder.exists()
    assert groups(cluster) == []
    folder = str(cluster.folder)
    wait_for(lambda: not mentioning(folder), what=f"the end of {mentioning(folder)}", timeout=120)
