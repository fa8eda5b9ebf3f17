"""Hardware that is not there: the scheduler counts it all the same, and full-size pods can be placed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import hardware
from tests.cluster.cluster import Cluster
from tests.cluster.space import Space

pytestmark = pytest.mark.cluster


def _refusal(item: Any) -> str:
    for entry in item.get("status", {}).get("conditions", []):
        if entry["type"] == "PodScheduled" and entry["reason"] == "Unschedulable":
            return str(entry["message"])
    return ""


def _wait_refused(space: Space, pod: str, *words: str) -> None:
    """Wait until the scheduler refuses a pod in these words: at first it may do so because a node is new."""

    def refused(item: Any) -> bool:
        said = _refusal(item)
        return all(word in said for word in words)

    space.api.wait("pod", pod, refused, what=f"the scheduler's refusal with {' and '.join(words)}")


@pytest.fixture
def gpus_on_node_1(machines: Cluster) -> Iterator[None]:
    hardware.give_devices(machines.kubectl, "node-1", gpu=8, efa=4)
    try:
        yield
    finally:
        hardware.take_devices(machines.kubectl, "node-1")


@pytest.mark.usefixtures("gpus_on_node_1")
def test_real_pods_share_pretended_gpus(space: Space) -> None:
    def wants(gpus: int) -> dict[str, Any]:
        return {"limits": {hardware.GPU: str(gpus), hardware.EFA: "1"}}

    item = space.start_pod("six", resources=wants(6))
    assert item["spec"]["nodeName"] == "node-1"
    space.api.apply(space.pod_manifest("three", resources=wants(3)))
    _wait_refused(space, "three", f"Insufficient {hardware.GPU}")
    space.api("delete", "pod", "six", "--grace-period=0", "--force")
    assert space.wait_phase("three", "Running")["spec"]["nodeName"] == "node-1"


@pytest.fixture
def fleet(space: Space) -> Iterator[dict[str, str]]:
    """One fake node of every kind in the table: its name by its kind."""
    space.need("kwok")
    names = {kind: f"{space.name[-6:]}-{kind}" for kind in hardware.machine_types()}
    space.api.apply(*(hardware.fake_node(kind, name) for kind, name in names.items()))
    try:
        yield names
    finally:
        space.api("delete", "node", *names.values())


def _full_size(space: Space, kind: str, name: str, **changes: str) -> dict[str, Any]:
    """A pod that asks for a whole machine, with a tenth of CPU and memory left for the machine's own pods."""
    shape = hardware.machine_types()[kind]
    memory = int(shape["capacity"]["memory"].removesuffix("Gi")) * 85 // 100
    cpu = int(shape["capacity"]["cpu"]) * 9 // 10
    asks = {"cpu": str(cpu), "memory": f"{memory}Gi", hardware.GPU: shape["capacity"][hardware.GPU]}
    if hardware.EFA in shape["capacity"]:
        asks[hardware.EFA] = shape["capacity"][hardware.EFA]
    asks.update(changes)
    manifest = space.pod_manifest(name, resources={"limits": asks})
    gpu_taint = {"key": hardware.GPU, "operator": "Exists", "effect": "NoSchedule"}
    manifest["spec"]["tolerations"] = [gpu_taint, *hardware.tolerations()]
    manifest["spec"]["nodeSelector"] = {"node.kubernetes.io/instance-type": shape["instance_type"]}
    return manifest


def test_a_full_size_pod_fits_every_machine_and_one_gpu_more_does_not(space: Space, fleet: dict[str, str]) -> None:
    for kind in fleet:
        more = str(int(hardware.machine_types()[kind]["capacity"][hardware.GPU]) + 1)
        space.api.apply(_full_size(space, kind, kind), _full_size(space, kind, f"{kind}-more", **{hardware.GPU: more}))
    for kind, node in fleet.items():
        assert space.wait_phase(kind, "Running")["spec"]["nodeName"] == node
        _wait_refused(space, f"{kind}-more", f"Insufficient {hardware.GPU}")


def test_the_stock_resource_for_p4d_never_fits_a_p4d(space: Space, fleet: dict[str, str]) -> None:
    """TorchX's own aws_p4d.24xlarge asks for 96 CPUs less 100m, which no such machine has left."""
    kind = "p4d-24xlarge"
    space.api.apply(_full_size(space, kind, "stock", cpu="95900m", memory="1131392Mi"))
    _wait_refused(space, "stock", "Insufficient cpu", "Insufficient memory")


def test_a_pod_without_the_toleration_stays_off_gpu_machines(space: Space, fleet: dict[str, str]) -> None:
    manifest = _full_size(space, "a2-highgpu-8g", "plain")
    manifest["spec"]["tolerations"] = hardware.tolerations()
    space.api.apply(manifest)
    _wait_refused(space, "plain", "untolerated taint", hardware.GPU)
