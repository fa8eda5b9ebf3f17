"""Hardware that is not there: GPUs and EFA devices on real nodes, and whole A100 machines as fake nodes."""

from __future__ import annotations

import tomllib
from functools import cache
from typing import Any

from .common import HERE, ClusterError
from .kubectl import Kubectl, Manifest

GPU = "nvidia.com/gpu"
EFA = "vpc.amazonaws.com/efa"


@cache
def machine_types() -> dict[str, Any]:
    """The machines of machines.toml."""
    return tomllib.loads((HERE / "machines.toml").read_text())


def give_devices(api: Kubectl, node: str, **counts: int) -> None:
    """Tell a real node that it has devices (`gpu=8, efa=4`): the scheduler counts them, nothing is behind them."""
    names = {"gpu": GPU, "efa": EFA}
    unknown = set(counts) - set(names)
    if unknown:
        raise ClusterError(f"there is no device {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    capacity = {names[key]: str(count) for key, count in counts.items()}
    # The kubelet leaves alone what it does not know.
    api.patch("node", node, {"status": {"capacity": capacity, "allocatable": capacity}}, "--subresource=status")
    api.wait(
        "node",
        node,
        lambda item: all(item["status"]["allocatable"].get(key) == value for key, value in capacity.items()),
        what=f"the devices of {node}",
        timeout=60,
    )


def take_devices(api: Kubectl, node: str) -> None:
    """Take all such devices from a node again."""
    api.patch(
        "node",
        node,
        {"status": {kind: {GPU: None, EFA: None} for kind in ("capacity", "allocatable")}},
        "--subresource=status",
    )


def fake_node(kind: str, name: str, zone: str = "zone-a") -> Manifest:
    """A node that kwok keeps alive, in the shape of a machine of machines.toml."""
    shape = machine_types().get(kind)
    if shape is None:
        raise ClusterError(f"machines.toml has no machine {kind}; there are {', '.join(machine_types())}")
    taints = [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]
    for text in shape["taints"]:
        pair, _, effect = text.partition(":")
        key, _, value = pair.partition("=")
        taints.append({"key": key, "value": value, "effect": effect})
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": shape["instance_type"],
        "topology.kubernetes.io/zone": zone,
        "type": "kwok",
        **shape["labels"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        # Real pods of other tests must not land here, so the fake node is tainted as such too.
        "spec": {"taints": taints},
        "status": {"capacity": shape["capacity"], "allocatable": shape["allocatable"]},
    }


def karpenter_machines(zones: tuple[str, ...] = ("zone-a", "zone-b")) -> list[Any]:
    """EC2's machines as Karpenter's provider of fake machines reads them, on demand and as spot in each zone.

    What that provider keeps for the system (0.1 CPU, 10 MiB) is added, so that pods get what they get on the real one.
    """
    return [
        {
            "name": shape["instance_type"],
            "architecture": "amd64",
            "operatingSystems": ["linux"],
            "resources": {
                **shape["allocatable"],
                "cpu": f"{int(shape['allocatable']['cpu'].removesuffix('m')) + 100}m",
                "memory": f"{int(shape['allocatable']['memory'].removesuffix('Mi')) + 10}Mi",
            },
            "offerings": [
                {
                    "Price": 30.0 if capacity == "on-demand" else 10.0,
                    "Available": True,
                    "Requirements": [
                        {"key": "karpenter.sh/capacity-type", "operator": "In", "values": [capacity]},
                        {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [zone]},
                    ],
                }
                for zone in zones
                for capacity in ("on-demand", "spot")
            ],
        }
        for shape in machine_types().values()
        if shape["cloud"] == "eks"
    ]


def tolerations() -> list[dict[str, str]]:
    """What a pod needs to be scheduled onto a fake node, beside what the real machine asks for."""
    return [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}]
