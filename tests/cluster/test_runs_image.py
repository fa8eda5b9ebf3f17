"""The project's own image runs a job where PodSecurity "restricted" is enforced."""

from __future__ import annotations

import contextlib
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.cluster import builder, demo_run, runs
from tests.cluster.cluster import Cluster
from tests.cluster.runs import Workbench
from tests.cluster.space import Space

pytestmark = pytest.mark.cluster

_PACKAGES = "/opt/packages"
_WORLD = "/opt/world"


@contextlib.contextmanager
def claims(space: Space, folders: Mapping[str, Path]) -> Iterator[list[str]]:
    """Volume claims on folders of this machine, by the path that pods mount them at; as in the option `volumes`."""
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
        yield [f"pvc/{name}:{path}:ro" for path, name in names.items()]
    finally:
        space.api("delete", "persistentvolume", *names.values(), "--wait=false")


def train(space: Space, bench: Workbench, reference: str, volumes: list[str], environment: str) -> None:
    """A run on two nodes with an image: as a user without rights, with a read-only root; no exception is asked for."""
    space.api("label", "namespace", space.name, "pod-security.kubernetes.io/enforce=restricted")
    settings = demo_run.settings(bench.world, bench.data, steps=20)
    settings["model"]["text"]["tokenizer"] = settings["model"]["text"]["tokenizer"].replace(str(bench.folder), _WORLD)
    config = demo_run.write(bench.folder / "image.yaml", settings)
    run = runs.submit(
        space,
        bench,
        "--config", f"{_WORLD}/{config.name}", "-j", "2x1", "--image", reference, "--cpu", "1", "--memMB", "2048",
        "--env", environment,
        steps=20, options=["image_pull_policy=Never", f"volumes={';'.join(volumes)}"],
    )  # fmt: skip
    with run:
        assert run.wait_end() == "Succeeded", run.why()
        assert sorted(run.losses()) == list(range(1, 21))
        (spec, *_) = [pod["spec"] for pod in run.pods()]
        assert not any("hostPath" in volume for volume in spec["volumes"])


def test_the_image_trains_in_a_restricted_namespace(
    space: Space, machines: Cluster, bench: Workbench, project_image: Path
) -> None:
    """It is built without PyTorch and its company, which have 5 GB. Pods read this machine's packages from a claim.

    So Python, cclm, the user and the file system are the image's; PyTorch and the other packages are not.
    """
    folders = {_PACKAGES: Path(sysconfig.get_path("purelib")), _WORLD: bench.folder}
    reference = machines.load(project_image)
    with claims(space, folders) as volumes:
        train(space, bench, reference, volumes, f"PYTHONPATH={_PACKAGES},OMP_NUM_THREADS=1")


def test_the_image_for_cpus_trains_with_nothing_but_itself(
    space: Space, machines: Cluster, bench: Workbench, soak: int
) -> None:
    """The whole image, but for CUDA, which is taken out: all that runs is the image's. Downloads 3 GB to build it."""
    image = builder.project_image(builder.CPU_ONLY)
    assert image.stat().st_size < 1.5e9  # its layers, not compressed
    reference = machines.load(image)
    with claims(space, {_WORLD: bench.folder}) as volumes:
        train(space, bench, reference, volumes, "OMP_NUM_THREADS=1")
