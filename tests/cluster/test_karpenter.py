"""Karpenter itself, over machines that kwok plays, orders the nodes of the pool's chart for full-size jobs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from k8s.jobs import build_job
from k8s.resources import MACHINES
from k8s.settings import JobSettings
from tests.cluster.charts import POOL, rendered
from tests.cluster.common import wait_for
from tests.cluster.kubectl import Kubectl
from tests.cluster.space import Space
from tests.unit.k8s.applications import application

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("soak")]

MOST_NODES = 3
VALUES = f"cloud=eks,machines={{p4d.24xlarge}},zone=zone-b,eks.role=r,eks.clusterName=c,maxNodes={MOST_NODES}"


@pytest.fixture
def pool(space: Space) -> Iterator[str]:
    """The chart's NodePool, and a class of fake machines instead of its EC2NodeClass."""
    space.need("training-operator", "karpenter-kwok")
    name = f"pool-{space.name[-6:]}"
    found = {one["kind"]: one for one in rendered(POOL, name, "--set", VALUES)}
    node_pool = found["NodePool"]
    reference = {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": name}
    node_pool["spec"]["template"]["spec"]["nodeClassRef"] = reference
    node_pool["spec"]["disruption"]["consolidateAfter"] = "0s"  # the chart's ten minutes are only longer
    node_class = {"apiVersion": "karpenter.kwok.sh/v1alpha1", "kind": "KWOKNodeClass", "metadata": {"name": name}}
    space.api.apply(node_class, node_pool)
    try:
        yield name
    finally:
        space.api("delete", "pytorchjob", "--all")
        space.api("delete", "nodepool", name, "--wait=true", "--timeout=180s")
        space.api("delete", "kwoknodeclass", name)


def _nodes(api: Kubectl, pool: str) -> dict[str, Any]:
    """The nodes of a pool by their names."""
    found = api.get("node", None, "-l", f"cclm.dev/pool={pool}")
    return {node["metadata"]["name"]: node for node in found}


def _submit(space: Space, pods: int) -> str:
    """Submit a job of full machines; its name."""
    full = MACHINES["a100x8_p4d"].resource
    app = application(
        "hello", entrypoint="train", image="registry.example.com/cclm:1", resource=full, num_replicas=pods
    )
    job = build_job(app, JobSettings(namespace=space.name))
    space.api.apply(job)
    return str(job["metadata"]["name"])


def _pods(space: Space, job: str, count: int) -> dict[str, str]:
    """Wait until a job's pods run; the node of each by the pod's uid."""
    found = [space.wait_phase(f"{job}-worker-{number}", "Running") for number in range(count)]
    return {pod["metadata"]["uid"]: pod["spec"]["nodeName"] for pod in found}


def test_karpenter_orders_full_machines_in_one_zone_and_takes_away_only_empty_ones(space: Space, pool: str) -> None:
    assert not _nodes(space.api, pool)
    large = _pods(space, _submit(space, 2), 2)
    assert len(set(large.values())) == 2, "each pod fills a machine"
    small = _submit(space, 1)
    third = next(iter(_pods(space, small, 1).values()))
    nodes = _nodes(space.api, pool)
    assert set(nodes) == {*large.values(), third}
    for node in nodes.values():
        labels = node["metadata"]["labels"]
        assert labels["node.kubernetes.io/instance-type"] == "p4d.24xlarge"
        assert labels["topology.kubernetes.io/zone"] == "zone-b"
        assert labels["karpenter.sh/capacity-type"] == "on-demand"
        assert any(taint["key"] == "nvidia.com/gpu" for taint in node["spec"]["taints"])

    late = _submit(space, 1)
    about = ("--field-selector", f"involvedObject.name={late}-worker-0")

    def refused() -> bool:
        return any("limit" in event["message"] for event in space.api.get("event", None, *about))

    wait_for(refused, what="Karpenter's word that the pool is full", timeout=240)
    assert set(_nodes(space.api, pool)) == set(nodes)
    space.api("delete", "pytorchjob", small)
    _pods(space, late, 1)
    assert len(_nodes(space.api, pool)) <= MOST_NODES

    space.api("delete", "pytorchjob", late)
    wait_for(lambda: set(_nodes(space.api, pool)) == set(large.values()), what="the end of the third node", timeout=240)
    assert {pod["metadata"]["uid"]: pod["spec"]["nodeName"] for pod in space.api.get("pod")} == large
