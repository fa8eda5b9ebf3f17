"""The chart of pools: rendered by helm, refused with sentences, and taken by the real definitions it is made for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from k8s.jobs import build_job
from k8s.resources import MACHINES
from k8s.settings import JobSettings
from tests.cluster import hardware
from tests.cluster.charts import HELMS, KUBERNETES, POOL, helm, refusal, rendered
from tests.cluster.kubectl import Kubectl, condition
from tests.cluster.space import Space
from tests.unit.k8s.applications import application

pytestmark = pytest.mark.cluster

FEATURES = sorted((POOL / "ci").glob("*-values.yaml"))
NOT_PUBLISHED = ("ComputeClass",)
"""Kinds whose definitions only their cloud has."""
GOOD = ("--set", "cloud=eks,machines={p4d.24xlarge},zone=z,eks.role=r,eks.clusterName=c")


@pytest.mark.parametrize("file", FEATURES, ids=lambda file: file.stem)
def test_each_feature_is_taken_by_the_real_definitions(space: Space, file: Any) -> None:
    space.need("karpenter-crds", "kueue")
    helm("lint", POOL, "--strict", "--values", file, *KUBERNETES)
    found = [one for one in rendered(POOL, "pool", "--values", file) if one["kind"] not in NOT_PUBLISHED]
    assert found or "gke" in file.name
    for one in found:
        if one["kind"] == "LocalQueue":
            one["metadata"]["namespace"] = space.name
    text = yaml.safe_dump_all(found)
    Kubectl(space.api.kubeconfig)("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)


def test_gke() -> None:
    """GKE's definition is not published: what is in the object follows its reference."""
    objects = {one["kind"]: one for one in rendered(POOL, "pool", "--values", POOL / "ci" / "gke-values.yaml")}
    rules = objects["ComputeClass"]["spec"]["priorities"]
    assert [rule["spot"] for rule in rules] == [False, False, True]
    assert rules[0]["reservations"]["specific"] == [{"name": "mine", "project": "other"}]
    assert rules[1]["flexStart"] == {"enabled": True}
    assert all(rule["gpu"] == {"type": "nvidia-a100-80gb", "count": 8} for rule in rules)
    assert objects["ResourceFlavor"]["spec"]["nodeLabels"] == {"cloud.google.com/compute-class": "pool"}
    assert "NodePool" not in objects


def test_runs_are_left_alone_and_the_pool_is_bounded() -> None:
    objects = {one["kind"]: one for one in rendered(POOL, "pool", *GOOD, "--set", "maxNodes=3")}
    pool = objects["NodePool"]["spec"]
    assert pool["limits"] == {"nvidia.com/gpu": 24}
    assert pool["template"]["spec"]["expireAfter"] == "Never"
    assert pool["disruption"]["consolidationPolicy"] == "WhenEmpty"
    assert objects["EC2NodeClass"]["spec"]["associatePublicIPAddress"] is False
    plain = {one["kind"]: one for one in rendered(POOL, "pool", *GOOD, "--set", "efa=false")}
    assert "associatePublicIPAddress" not in plain["EC2NodeClass"]["spec"]


@pytest.mark.parametrize("program", HELMS)
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ("cloud=", "cloud: say eks or gke"),
        ("cloud=azure", "/cloud"),
        ("machines=null", "machines: name at least one"),
        ("machines={p9.huge}", "machines: p9.huge is not known; known are a2-highgpu-1g"),
        ("machines={a2-highgpu-8g}", "machines: a2-highgpu-8g is a machine of gke, and cloud is eks"),
        ("machines={p4d.24xlarge,p5.48xlarge}", "p5.48xlarge has other GPUs or EFA devices than p4d.24xlarge"),
        ("zone=", "zone: name the one zone"),
        ("maxNodes=0", "/maxNodes"),
        ("maxNodes=many", "got string, want integer"),
        ("maxNode=3", "'maxNode' not allowed"),
        ("eks.rol=x", "'rol' not allowed"),
        ("capacity={cheap}", "/capacity/0"),
        ("capacity={reserved}", "eks.capacityReservations: capacity has reserved"),
        ("eks.capacityReservations={cr-1}", "they are used only if capacity has reserved"),
        ("eks.role=", "eks.role: name the IAM role"),
        ("eks.clusterName=", "eks.clusterName: name the cluster"),
        ("cloud=gke,machines={a2-highgpu-8g},efa=true", "efa: a a2-highgpu-8g has no EFA devices"),
        ("cloud=gke,machines={a2-highgpu-8g},capacity={spot},gke.flexStart=true", "gke.flexStart: it is a way"),
        ("cloud=gke,machines={a2-highgpu-8g},capacity={reserved}", "gke.reservations: capacity has reserved"),
    ],
)
def test_what_cannot_be_is_refused(program: str, values: str, sentence: str) -> None:
    assert sentence in refusal(POOL, "pool", *GOOD, "--set", values, program=program)


@pytest.fixture
def release(space: Space) -> Iterator[str]:
    """The pool of two p4d nodes with its queue, installed, and two such nodes."""
    space.need("karpenter-crds", "kueue", "kwok")
    name = f"pool-{space.name[-6:]}"
    nodes = [hardware.fake_node("p4d-24xlarge", f"{name}-{number}") for number in range(2)]
    for node in nodes:
        node["metadata"]["labels"]["cclm.dev/pool"] = name
    space.api.apply(*nodes)
    place = ("--kubeconfig", space.api.kubeconfig, "--namespace", space.name)
    queue = f"kueue.localQueues[0].name=training,kueue.localQueues[0].namespace={space.name}"
    values = (*GOOD, "--set", f"maxNodes=2,kueue.enabled=true,{queue}")
    done = helm("install", name, POOL, *place, *values)
    assert "What a chart cannot provide" in done.stdout
    assert f"namespace={space.name},queue=training cclm.pretrain -h a100x8_p4d -j 2x8" in done.stdout
    try:
        yield name
    finally:
        helm("uninstall", name, *place)
        space.api("delete", "node", *(node["metadata"]["name"] for node in nodes))


def test_quota_is_for_full_nodes(space: Space, release: str) -> None:
    """Two pods of the named resource fill the quota and run on the pool's nodes; the next job waits."""
    settings = JobSettings(
        namespace=space.name, queue="training", tolerations=("kwok.x-k8s.io/node:NoSchedule",)
    )  # fmt: skip
    full = MACHINES["a100x8_p4d"].resource
    app = application("hello", entrypoint="train", image="registry.example.com/cclm:1", resource=full)
    first = build_job(app, settings)
    space.api.apply(first)
    for number in range(2):
        pod = space.wait_phase(f"{first['metadata']['name']}-worker-{number}", "Running")
        assert pod["spec"]["nodeName"].startswith(release)
    runs = lambda job: condition(job, "Running")  # noqa: E731
    space.api.wait("pytorchjob", first["metadata"]["name"], runs, what="the operator's word on the first job")
    second = build_job(app, settings)
    space.api.apply(second)

    def waits(_: Any) -> bool:
        for workload in space.api.get("workload"):
            if workload["metadata"]["ownerReferences"][0]["name"] == second["metadata"]["name"]:
                found = [one for one in workload["status"].get("conditions", []) if one["type"] == "QuotaReserved"]
                return any("insufficient unused quota" in one["message"] for one in found)
        return False

    space.api.wait("pytorchjob", second["metadata"]["name"], waits, what="the wait of the second job for quota")
    assert condition(space.api.get("pytorchjob", first["metadata"]["name"]), "Running")
