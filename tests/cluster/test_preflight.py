"""The preflight in real containers, whose shared memory is 64 MB unless they ask for more."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import demo_run, mounted
from tests.cluster.common import PROJECT
from tests.cluster.space import Space

pytestmark = pytest.mark.cluster


def _pod(space: Space, name: str, world: Path, shm: dict[str, Any] | None) -> dict[str, Any]:
    """A pod that makes the checks of a config whose loaders need 96 MB of shared memory, and starts nothing."""
    parts = mounted.pod_parts()
    pod = space.pod_manifest(name)
    (container,) = pod["spec"]["containers"]
    settings = ["data.images.num_workers=2", "data.images.batch_size=2048", "output_dir=/tmp/run"]
    config = str(PROJECT / "configs" / "demo" / "pretrain.yaml")
    container |= parts["container"]
    container["command"] = [sys.executable, "-m", "cclm", "launch", "--preflight-only", "--", "pretrain", config]
    container["command"] += settings
    container["workingDir"] = "/data"
    container["volumeMounts"] += [{"name": "data", "mountPath": "/data/demo_world", "readOnly": True}]
    pod["spec"]["volumes"] = [*parts["volumes"], {"name": "data", "hostPath": {"path": str(world)}}]
    if shm is not None:
        container["volumeMounts"] += [{"name": "shm", "mountPath": "/dev/shm"}]
        pod["spec"]["volumes"] += [{"name": "shm", "emptyDir": shm}]
    return pod


def _ended(space: Space, name: str, phase: str) -> tuple[int, str]:
    """Exit code and last line of a pod that ends so."""
    item = space.wait_phase(name, "Succeeded", "Failed", timeout=240)
    said = space.api("logs", name)
    assert item["status"]["phase"] == phase, said
    code: int = item["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    return code, said.strip().splitlines()[-1]


def test_a_container_has_64_mb_of_shared_memory(space: Space, tmp_path: Path) -> None:
    if space.owned is None:
        pytest.skip("folders of this machine are mounted")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    world = tmp_path / "world"
    demo_run.make_world(world)
    memory = {"medium": "Memory", "sizeLimit": "256Mi"}
    space.api.apply(_pod(space, "as-it-is", world, None), _pod(space, "with-more", world, memory))
    code, said = _ended(space, "as-it-is", "Failed")
    assert code == 2
    assert said.startswith("cclm: error: /dev/shm has 64 MiB left, but the loader processes of this machine's 1")
    assert _ended(space, "with-more", "Succeeded")[0] == 0
