"""Kueue's objects for a test: a queue with little quota, and priorities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .common import wait_for
from .kubectl import condition
from .space import Space

API = "kueue.x-k8s.io/v1beta1"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
LINE = "line"
"""Name of the LocalQueue."""


@contextmanager
def queue(space: Space, **quota: str) -> Iterator[str]:
    """A LocalQueue in the test's namespace with this quota, such as `cpu="2"`; its name. High priority goes first."""
    name = space.name
    resources = [{"name": resource, "nominalQuota": amount} for resource, amount in quota.items()]
    group = {"coveredResources": list(quota), "flavors": [{"name": name, "resources": resources}]}
    shared = {
        "namespaceSelector": {},
        "resourceGroups": [group],
        "preemption": {"withinClusterQueue": "LowerPriority"},
    }
    space.api.apply(
        {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": name}},
        {"apiVersion": API, "kind": "ClusterQueue", "metadata": {"name": name}, "spec": shared},
        {"apiVersion": API, "kind": "LocalQueue", "metadata": {"name": LINE}, "spec": {"clusterQueue": name}},
        {"apiVersion": API, "kind": "WorkloadPriorityClass", "metadata": {"name": urgent(space)}, "value": 1000},
    )
    try:
        space.api.wait("clusterqueue", name, lambda item: condition(item, "Active"), what="the queue", timeout=60)
        yield LINE
    finally:
        space.api("delete", "clusterqueue,resourceflavor", name, "--wait=false")
        space.api("delete", "workloadpriorityclass", urgent(space), "--wait=false")


def urgent(space: Space) -> str:
    """Name of the priority class that goes before jobs without one."""
    return f"{space.name}-urgent"


def workload(space: Space, job: str) -> Any:
    """Kueue's record of a job, None while there is none."""
    for item in space.api.get("workload"):
        if any(owner["name"] == job for owner in item["metadata"].get("ownerReferences") or []):
            return item
    return None


def wait_workload(space: Space, job: str, kind: str, status: str = "True", timeout: float = 240) -> dict[str, Any]:
    """Wait until a condition of a job's record has this status; the condition."""

    def found() -> dict[str, Any] | None:
        entries = (workload(space, job) or {}).get("status", {}).get("conditions") or []
        return next((entry for entry in entries if (entry["type"], entry["status"]) == (kind, status)), None)

    def why() -> str:
        return str((workload(space, job) or {}).get("status"))[:800]

    answer: dict[str, Any] = wait_for(
        found, what=f"{kind}={status} of the workload of {job}", timeout=timeout, every=0.2, why=why
    )
    return answer
