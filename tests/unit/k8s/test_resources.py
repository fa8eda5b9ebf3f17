"""Named resources: each fits its machine, and TorchX finds it."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from torchx.specs import Resource

from k8s import resources
from k8s.manifest import pytorchjob
from k8s.quantities import amount, in_words
from k8s.resources import EFA, GPU, MACHINES
from k8s.settings import JobSettings
from tests.unit.k8s.applications import application

ROOT = Path(__file__).parents[3]


def limits_of(resource: Resource, settings: JobSettings) -> dict[str, Any]:
    job = pytorchjob(application(resource=resource), settings, "run-x")
    (container,) = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    return dict(container["resources"]["limits"])


@pytest.mark.parametrize("name", MACHINES)
def test_a_pod_fits_and_leaves_room_for_the_pods_of_each_node(name: str) -> None:
    machine = MACHINES[name]
    limits = limits_of(machine.resource, JobSettings())
    memory = amount(limits["memory"])
    assert 0.9 * machine.memory * 2**20 < memory < (machine.memory - 2048) * 2**20
    assert 0.8 * machine.millicpu < amount(limits["cpu"]) * 1000 < machine.millicpu - 300
    assert limits[GPU] == str(machine.gpus)
    assert limits.get(EFA, "0") == str(machine.efa)


def test_shapes_are_those_of_the_fake_nodes() -> None:
    """tests/cluster/machines.toml has the shapes on which pods are scheduled in earnest."""
    shapes = tomllib.loads((ROOT / "tests" / "cluster" / "machines.toml").read_text())
    by_type = {shape["instance_type"]: shape for shape in shapes.values()}
    for machine in MACHINES.values():
        allocatable = by_type[machine.instance_type]["allocatable"]
        assert machine.memory * 2**20 <= amount(allocatable["memory"])
        assert machine.millicpu <= amount(allocatable["cpu"]) * 1000
        assert (machine.gpus, machine.efa) == (int(allocatable[GPU]), int(allocatable.get(EFA, 0)))


def test_torchx_finds_each() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    registered = project["entry-points"]["torchx.named_resources"]
    assert registered == {name: f"k8s.resources:{name}" for name in [*MACHINES, "cpu_small"]}
    for name in registered:
        made = getattr(resources, name)()
        assert isinstance(made, Resource)
        assert made.gpu == (MACHINES[name].gpus if name in MACHINES else 0)
    with pytest.raises(AttributeError):
        resources.a100x9  # noqa: B018  the access itself is what is tested


def test_pods_select_their_machine() -> None:
    job = pytorchjob(application(resource=MACHINES["a100x8_a2ultragpu"].resource), JobSettings(), "run-x")
    pod = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    assert pod["nodeSelector"] == {
        "node.kubernetes.io/instance-type": "a2-ultragpu-8g",
        "cloud.google.com/gke-accelerator": "nvidia-a100-80gb",
    }


def test_amounts_for_people_have_no_exponents() -> None:
    given = [("memory", 1026.9 * 2**30), ("memory", 1.5 * 2**20), ("cpu", 88.5), ("cpu", 12345.0)]
    assert [in_words(*each) for each in given] == ["1027Gi", "1.5Mi", "88.5", "12345"]
