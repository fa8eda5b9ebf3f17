"""Removes what a cluster leaves on the machine when its processes are gone: control groups and its folder."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path

from . import cgroups
from .common import ClusterError
from .kubectl import cache_of


def remove_remains(folder: Path, timeout: float = 30) -> None:
    """Remove the control groups and the folder of a cluster; its namespaces and mounts ended with its processes."""
    settings = folder / "cluster.json"
    group = None
    with contextlib.suppress(FileNotFoundError, ValueError, LookupError, TypeError):
        # Settings that cannot be read were cut off while they were written, before any group was made.
        group = str(json.loads(settings.read_text())["cgroup"])
    if group:
        cgroups.remove(group, timeout)
    shutil.rmtree(cache_of(folder / "kubeconfig"), ignore_errors=True)
    end = time.monotonic() + timeout
    while folder.exists():
        # The kernel lets go of the last mounts a moment after the last process has ended.
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            if time.monotonic() > end:
                raise ClusterError(f"the folder {folder} could not be removed: something still uses it")
            time.sleep(0.1)
