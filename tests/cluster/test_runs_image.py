"""The project's own image runs a job where PodSecurity "restricted" is enforced."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import demo_run, runs
from tests.cluster.cluster import Cluster
from tests.cluster.runs import Workbench
from tests.cluster.space import Space

pytestmark = pytest.mark.cluster

_PACKAGES = "/opt/packages"
_WORLD = "/opt/world"


@pytest.fixture
def claims(space: Space, bench: Workbench) -> Iterator[dict[str, str]]:
    """Volume claims on folders of this machine, by the path that pods mount them at.

    The image is built without PyTorch and its company, which have 5 GB. Pods read these packages from a claim.
    """
    folders = {_PACKAGES: Path(sysconfig.get_path("purelib")), _WORLD: bench.folder}
    names = {path: f"{space.name}-{path.rpartition('/')[2]}" for path in folders}
    for path, folder in folders.items():
        shared = {"accessModes": ["ReadOnlyMany"], "storageClassName": names[path]}
        volume = {"capacity": {"storage": "1Gi"}, "hostPath": {"path": str(folder)}, **shared}
        wanted = {"resources": {"requests": {"storage": "1Gi"}}, **shared}
        space.api.apply(
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": names[path]}, "spec": volume},
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": names[path]}, "spec": wanted},
        )
    try:
        yield {path: f"pvc/{name}:{path}:ro" for path, name in names.items()}
    finally:
        space.api("delete", "persistentvolume", *names.values(), "--wait=false")


def test_the_image_trains_in_a_restricted_namespace(
    space: Space, machines: Cluster, bench: Workbench, project_image: Path, claims: dict[str, str]
) -> None:
    """As a user without rights, with a read-only root; the image's default options, no exception asked for."""
    space.api("label", "namespace", space.name, "pod-security.kubernetes.io/enforce=restricted")
    reference = machines.load(project_image)
    settings = demo_run.settings(bench.world, bench.data, steps=20)
    settings["model"]["text"]["tokenizer"] = settings["model"]["text"]["tokenizer"].replace(str(bench.folder), _WORLD)
    config = demo_run.write(bench.folder / "image.yaml", settings)
    run = runs.submit(
        space,
        bench,
        "--config", f"{_WORLD}/{config.name}", "-j", "2x1", "--image", reference, "--cpu", "1", "--memMB", "2048",
        "--env", f"PYTHONPATH={_PACKAGES},OMP_NUM_THREADS=1",
        steps=20, options=["image_pull_policy=Never", f"volumes={';'.join(claims.values())}"],
    )  # fmt: skip
    with run:
        assert run.wait_end() == "Succeeded", run.why()
        assert sorted(run.losses()) == list(range(1, 21))
        (spec, *_) = [pod["spec"] for pod in run.pods()]
        assert not any("hostPath" in volume for volume in spec["volumes"])
