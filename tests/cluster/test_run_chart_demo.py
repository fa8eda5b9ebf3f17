"""The chart's default run on a cluster: the demo world, by the project's own image."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.common import ClusterError
from tests.cluster.kubectl import condition
from tests.cluster.space import Space
from tests.cluster.test_run_chart_life import Release

pytestmark = pytest.mark.cluster

_PACKAGES = "/opt/packages"


@pytest.fixture
def packages(space: Space) -> Iterator[str]:
    """A claim on this machine's Python packages, as the image that tests build lacks the 5 GB of PyTorch."""
    name = f"{space.name}-packages"
    shared = {"accessModes": ["ReadOnlyMany"], "storageClassName": name}
    folder = {"hostPath": {"path": sysconfig.get_path("purelib")}}
    space.api.apply(
        {
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {"capacity": {"storage": "1Gi"}, **folder, **shared},
        },
        {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {"resources": {"requests": {"storage": "1Gi"}}, **shared},
        },
    )  # fmt: skip
    try:
        yield name
    finally:
        space.api("delete", "persistentvolume", name, "--wait=false")


def test_the_demo_world_is_trained_on_to_the_end(
    space: Space, machines: Cluster, project_image: Path, packages: str
) -> None:
    """The default run in a namespace that restricts pods; only smaller, and with PyTorch from a claim."""
    space.api("label", "namespace", space.name, "pod-security.kubernetes.io/enforce=restricted")
    repository, _, tag = machines.load(project_image).rpartition(":")
    values = {
        "image.repository": repository, "image.tag": tag, "image.pullPolicy": "Never", "demoOptions": ["--tiny"],
        "overrides": ["training.max_steps=4", "training.log_every=1"], "env": {"PYTHONPATH": _PACKAGES},
        "volumes": [{"claim": packages, "path": _PACKAGES, "readOnly": True}], "nodes.cpu": 1,
    }  # fmt: skip
    release = Release(space, "helm")
    release("install", **values)
    name = release.job()
    try:
        release("test")
    except AssertionError:
        said = space.api.attempt("logs", "run-test")
        raise ClusterError(f"helm test failed: {said.stdout}{said.stderr}") from None
    space.api.wait("pytorchjob", name, lambda job: condition(job, "Succeeded"), what="success", timeout=300)
    # One that has succeeded passes as well, and an upgrade leaves it alone.
    first = release.jobs()
    release("upgrade", **values, **{"networkPolicy.enabled": True})
    assert release.jobs() == first
    release("test")
    release("uninstall")
