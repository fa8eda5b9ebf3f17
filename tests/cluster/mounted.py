"""The quick way to run the working tree in a pod: an empty image, and this machine's programs mounted into it.

The pod starts in two seconds where an image with PyTorch has 5 GB to unpack. It works only on a cluster whose nodes
are this machine.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from . import images
from .common import PROJECT


def folders() -> list[Path]:
    """What a Python process of this environment reads: the system, the interpreter, the packages, the project."""
    system = [Path(name) for name in ("/usr", "/bin", "/sbin", "/lib", "/lib64") if Path(name).exists()]
    own = [Path(sys.base_prefix), Path(sys.prefix), PROJECT]
    # One folder inside another is mounted with it.
    kept: list[Path] = []
    for folder in system + own:
        if not any(folder.is_relative_to(other) for other in kept):
            kept.append(folder)
    return kept


def pod_parts() -> dict[str, Any]:
    """Fields to merge into a pod: `container` for its container, `volumes` for its spec.

    The folders are read-only; what a program writes goes to /tmp.
    """
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    for number, folder in enumerate(folders()):
        volumes.append({"name": f"machine-{number}", "hostPath": {"path": str(folder), "type": "Directory"}})
        mounts.append({"name": f"machine-{number}", "mountPath": str(folder), "readOnly": True})
    volumes.append({"name": "scratch", "emptyDir": {}})
    mounts.append({"name": "scratch", "mountPath": "/tmp"})
    env = {
        "PYTHONPATH": str(PROJECT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/tmp",
        "USER": "test",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.prefix) / 'bin'}:/usr/bin:/bin:/usr/sbin:/sbin",
    }
    container = {
        "image": images.BARE,
        "imagePullPolicy": "IfNotPresent",
        "volumeMounts": mounts,
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "workingDir": "/tmp",
    }
    return {"container": container, "volumes": volumes}
