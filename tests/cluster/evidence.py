"""What a cluster can tell about a test that failed, written into a folder that stays."""

from __future__ import annotations

import shutil
from pathlib import Path

from . import addons, status
from .space import Space

# A test may have failed because the API does not answer: then every question takes this long.
_PATIENCE = 15


def keep(space: Space, folder: Path) -> Path:
    """Write events, objects, pod logs and component logs into the folder, and return it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    involved = "KIND:.involvedObject.kind,NAME:.involvedObject.name"
    columns = f"custom-columns=TIME:.lastTimestamp,{involved},REASON:.reason,MESSAGE:.message"
    for name, words in {
        "events.txt": ["get", "events", "--sort-by=.metadata.creationTimestamp", "-o", columns],
        "pods.txt": ["get", "pods", "-o", "wide"],
        "nodes.txt": ["describe", "nodes"],
        "objects.yaml": ["get", "pods,services,configmaps,resourcequotas,jobs", "-o", "yaml"],
        "pytorchjobs.yaml": ["get", "pytorchjobs.kubeflow.org", "-o", "yaml"],
    }.items():
        done = space.api.attempt(*words, timeout=_PATIENCE)
        (folder / name).write_text(done.stdout + done.stderr)
    for pod in space.api.attempt("get", "pods", "-o", "name", timeout=_PATIENCE).stdout.split():
        for name, more in (
            (f"{pod.rpartition('/')[2]}.log", []),
            (f"{pod.rpartition('/')[2]}.previous.log", ["--previous"]),
        ):
            done = space.api.attempt(
                "logs", pod, "--all-containers", "--prefix", "--timestamps", *more, timeout=_PATIENCE
            )
            if done.stdout:
                (folder / name).write_text(done.stdout)
    if space.owned:
        _components(space, folder)
    return folder


def _components(space: Space, folder: Path) -> None:
    cluster = space.owned
    if cluster is None or not cluster.up_now:
        return
    health = status.examine(cluster)
    (folder / "status.txt").write_text("\n".join([*health.lines, "", *health.troubles]) + "\n")
    shutil.copytree(cluster.folder / "logs", folder / "components")
    for option in addons.installed(cluster):
        namespace = addons.OPTIONS[option].namespace
        if namespace:
            words = ["logs", "-n", namespace, "--all-containers", "--prefix", "--tail=2000", "-l", "!cclm.test/none"]
            (folder / f"operator-{option}.log").write_text(cluster.kubectl.attempt(*words).stdout)
