"""Removes what a cluster leaves on the machine when its processes are gone: control groups and its folder."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from . import cgroups
from .common import ClusterError


def remove_remains(folder: Path, timeout: float = 30) -> None:
    """Remove the control groups and the folder of a cluster; its namespaces and mounts ended with its processes."""
    settings = folder / "cluster.json"
    if settings.exists():
        cgroups.remove(json.loads(settings.read_text())["cgroup"], timeout)
    end = time.monotonic() + timeout
    while folder.exists():
        # The kernel lets go of the last mounts a moment after the last process has ended.
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            if time.monotonic() > end:
                raise ClusterError(f"the folder {folder} could not be removed: something still uses it")
            time.sleep(0.1)
