"""Removes what a cluster leaves on the machine when its processes are gone: control groups and its folder."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from pathlib import Path

from . import cgroups
from .common import ClusterError, clusters_folder, digest, locked, remove_tree, remove_unfinished, say
from .kubectl import cache_of


def up_lock(name: str) -> str:
    """The lock held by the process that brings a cluster up."""
    return f"up-{name}"


def life_lock(name: str) -> str:
    """The lock held by a cluster's supervisor from its first to its last moment."""
    return f"life-{name}"


def cgroup_of(folder: Path) -> str:
    """The control group of a cluster. The folder is part of it: two caches may each hold a cluster of one name."""
    return f"cclm-{folder.name}-{digest(str(folder))[:6]}"


def remove_remains(folder: Path, timeout: float = 30) -> None:
    """Remove the control groups and the folder of a cluster; its namespaces and mounts end with its processes."""
    cgroups.remove(cgroup_of(folder), timeout)
    shutil.rmtree(cache_of(folder / "kubeconfig"), ignore_errors=True)
    end = time.monotonic() + timeout
    while folder.exists():
        # The kernel lets go of the last mounts a moment after the last process has ended.
        remove_tree(folder)
        if folder.exists():
            if time.monotonic() > end:
                raise ClusterError(f"the folder {folder} could not be removed: something still uses it")
            time.sleep(0.1)


def remove_dead(name: str, wait: bool) -> None:
    """Remove what is left of a cluster without a supervisor, and nothing of one that lives or is being brought up.

    With `wait`, a supervisor that is just taking its cluster down is waited for.
    """
    with contextlib.suppress(BlockingIOError), locked(up_lock(name), wait=False, forget=True):
        with locked(life_lock(name), wait=wait, forget=True):
            remove_remains(clusters_folder() / name)


def sweep() -> None:
    """Remove what killed supervisors and killed builds have left in this cache and on this machine."""
    for name in sorted(_known()):
        left = (clusters_folder() / name).exists() or bool(_groups_of(name))
        try:
            remove_dead(name, wait=False)
        except ClusterError as error:
            say(f"what a killed process has left of the cluster {name} stays: {error}")
        if left and not (clusters_folder() / name).exists() and not _groups_of(name):
            say(f"removed what a killed process had left of the cluster {name}")
    remove_unfinished()


def _known() -> set[str]:
    """Names of this cache's clusters: those with a folder, and those of which only control groups are left."""
    names = {path.name for path in clusters_folder().glob("*")}
    for root in cgroups.everywhere():
        for group in root.glob("cclm-*"):
            found = re.fullmatch(r"cclm-(.+)-[0-9a-f]{6}", group.name)
            if found and cgroup_of(clusters_folder() / found[1]) == group.name:
                names.add(found[1])
    return names


def _groups_of(name: str) -> list[Path]:
    group = cgroup_of(clusters_folder() / name)
    return [root / group for root in cgroups.everywhere() if (root / group).exists()]
