"""Damage to single pods, on trivial ones: what Kubernetes then says and does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import faults
from tests.cluster.common import ClusterError
from tests.cluster.space import Space

pytestmark = pytest.mark.cluster


def _saves(seconds: int) -> str:
    """Asked to end, this script needs so long to save and then says by its status that it has."""
    # The shell is told of SIGTERM only while it waits, so sleep runs beside it.
    return f"trap 'sleep {seconds}; exit 7' TERM; echo ready; sleep 100000 & wait"


@pytest.fixture
def savers(space: Space) -> Iterator[dict[str, int | None]]:
    """Pods that save when they are deleted, by name, with the grace that the deletion names (None: the pod's own).

    A finalizer keeps the objects after the end, so that they still tell how the containers ended.
    """
    # Seconds to save, and the pod's own grace: far apart, since a busy node kills late. But 25 is less than a pod's
    # stock grace of 30, so that one whose own second were not heeded would save, too.
    pods = {"patient": (5, 120), "hasty": (25, 1), "hurried": (25, 120)}
    manifests = [
        space.pod_manifest(name, _saves(seconds), terminationGracePeriodSeconds=own)
        for name, (seconds, own) in pods.items()
    ]
    for manifest in manifests:
        manifest["metadata"]["finalizers"] = ["cclm.test/seen"]
    space.api.apply(*manifests)
    try:
        yield {"patient": None, "hasty": None, "hurried": 1}
    finally:
        for name in pods:
            space.api.patch("pod", name, {"metadata": {"finalizers": None}})


def test_a_deleted_pod_may_save_within_its_grace_and_is_killed_after_it(
    space: Space, savers: dict[str, int | None]
) -> None:
    for name in savers:
        space.wait_phase(name, "Running")
        space.api.wait("pod", name, lambda _, name=name: "ready" in space.api("logs", name), what="the trap")
    for name, grace in savers.items():
        faults.delete_pod(space.api, name, grace)
    assert {name: _exit(space, name) for name in savers} == {"patient": 7, "hasty": 137, "hurried": 137}


def _exit(space: Space, pod: str) -> int:
    (container,) = space.wait_phase(pod, "Failed")["status"]["containerStatuses"]
    return int(container["state"]["terminated"]["exitCode"])


def test_a_pod_deleted_without_grace_is_gone_at_once(space: Space) -> None:
    space.start_pod("victim", _saves(5), terminationGracePeriodSeconds=300)
    faults.delete_pod(space.api, "victim", grace_seconds=0)
    space.wait_gone("victim", timeout=60)


def test_an_evicted_pod_is_gone_and_a_budget_protects(space: Space) -> None:
    manifest = space.pod_manifest("guarded")
    manifest["metadata"]["labels"] = {"app": "guarded"}
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "guard"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "guarded"}}},
    }
    space.api.apply(manifest, budget)
    space.wait_phase("guarded", "Running")
    # The budget counts the pod before it protects it.
    space.api.wait("pdb", "guard", lambda item: item["status"].get("currentHealthy") == 1, what="the budget's count")
    with pytest.raises(ClusterError, match="disruption budget"):
        faults.evict_pod(space.api, "guarded")
    space.api("delete", "pdb", "guard")
    faults.evict_pod(space.api, "guarded")
    space.wait_gone("guarded")


def test_a_pod_out_of_memory_is_killed_and_says_so(space: Space) -> None:
    space.start_pod("hungry", resources={"limits": {"cpu": "1", "memory": "64Mi"}})
    faults.oom_kill_pod(space.api, "hungry")
    item = space.wait_phase("hungry", "Failed")
    (container,) = item["status"]["containerStatuses"]
    assert container["state"]["terminated"]["reason"] == "OOMKilled"
    assert container["state"]["terminated"]["exitCode"] == 137


def test_memory_without_a_limit_is_refused_not_eaten(space: Space) -> None:
    space.start_pod("unlimited")
    with pytest.raises(ClusterError, match="no memory limit"):
        faults.oom_kill_pod(space.api, "unlimited")


def test_shared_memory_is_64_megabytes_unless_asked_for(space: Space) -> None:
    space.start_pod("plain")
    assert faults.fill_shared_memory(space.api, "plain") == 64 << 20
    assert "No space left" in space.shell(
        "plain", "echo x 2>&1 > /dev/shm/more || true; dd if=/dev/zero of=/dev/shm/more bs=1k count=8 2>&1 || true"
    )
    volume = {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "96Mi"}}
    manifest = space.pod_manifest("roomy", volumes=[volume])
    manifest["spec"]["containers"][0]["volumeMounts"] = [{"name": "dshm", "mountPath": "/dev/shm"}]
    space.api.apply(manifest)
    space.wait_phase("roomy", "Running")
    assert faults.fill_shared_memory(space.api, "roomy") == 96 << 20


def test_an_exhausted_quota_refuses_the_next_pod(space: Space) -> None:
    space.start_pod("first")
    faults.exhaust_quota(space.api)
    with pytest.raises(ClusterError, match="exceeded quota: exhausted"):
        space.api.apply(space.pod_manifest("second"))
    assert [item["metadata"]["name"] for item in space.api.get("pod")] == ["first"]
