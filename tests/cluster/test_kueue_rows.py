"""What Kueue makes of elastic PyTorchJobs: what `torchx status` reads, and why runs in a queue are not resized."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster import queues
from tests.cluster.common import wait_for
from tests.cluster.jobs import pod_spec, shell_job
from tests.cluster.kubectl import Manifest, condition
from tests.cluster.space import Space

pytestmark = pytest.mark.cluster

_SHELL = "trap 'sleep 3; echo saved; exit 143' TERM; echo ready; sleep 100000 & wait"
_STAYS = "trap 'until [ -e /tmp/leave ]; do sleep 0.2; done; exit 143' TERM; echo ready; sleep 100000 & wait"
"""Ignores SIGTERM until a test makes the file."""


def _queued(space: Space, name: str, workers: int, script: str = _SHELL, grace: int = 10, **labels: str) -> Manifest:
    job = shell_job(space, name, script, workers=workers, grace=grace)
    job["metadata"]["labels"] = {queues.QUEUE_LABEL: queues.LINE, **labels}
    pod_spec(job)["containers"][0]["resources"] = {"requests": {"cpu": "100m"}}
    return job


def _pod_uids(space: Space, job: str) -> set[str]:
    pods = space.api.get("pod", None, "-l", f"training.kubeflow.org/job-name={job}")
    return {pod["metadata"]["uid"] for pod in pods if pod["status"].get("phase") == "Running"}


def _wait_running(space: Space, job: str, workers: int, but: set[str] = frozenset()) -> set[str]:  # type: ignore[assignment]
    """Wait until as many pods run that are not among `but`; their identities."""
    found = wait_for(
        lambda: uids if len(uids := _pod_uids(space, job) - but) == workers else None,
        what=f"{workers} running pods of {job}", timeout=120, every=0.5,
    )  # fmt: skip
    return set(found)


def test_quota_and_preemption(space: Space) -> None:
    space.need("training-operator", "kueue")
    with queues.queue(space, cpu="200m"):
        space.api.apply(_queued(space, "first", workers=2))
        before = _wait_running(space, "first", 2)
        (pod_set,) = queues.workload(space, "first")["spec"]["podSets"]
        assert pod_set["count"] == 2  # neither the least nor the most of elasticPolicy

        # No quota for a second one: the reason stands in the workload alone.
        space.api.apply(_queued(space, "second", workers=1))
        reason = queues.wait_workload(space, "second", "QuotaReserved", "False")
        assert reason["reason"] == "Pending" and "insufficient unused quota for cpu" in reason["message"]
        suspended = lambda job: job if condition(job, "Suspended") else None  # noqa: E731
        second = space.api.wait("pytorchjob", "second", suspended, what="the operator's word on it")
        assert not second["status"].get("replicaStatuses")

        # A higher priority throws the first one out, which keeps its grace, and comes back after it.
        priority = {queues.PRIORITY_LABEL: queues.urgent(space)}
        space.api.apply(_queued(space, "urgent", workers=2, **priority))
        evicted = queues.wait_workload(space, "first", "Evicted")
        assert evicted["reason"] == "Preempted"
        queues.wait_workload(space, "first", "Preempted")
        _wait_running(space, "urgent", 2)
        first = space.api.get("pytorchjob", "first")
        assert condition(first, "Suspended") and not condition(first, "Running")
        assert any(entry["type"] == "Running" for entry in first["status"]["conditions"])  # it stays, with status False
        for name in ("second", "urgent"):
            space.api("delete", "pytorchjob", name)
        _wait_running(space, "first", 2, but=before)


def test_resizing_throws_the_whole_job_out(space: Space) -> None:
    space.need("training-operator", "kueue")
    with queues.queue(space, cpu="300m"):
        # Its pods leave when they are told to, so that the job that waits is the first to ask for the quota.
        space.api.apply(_queued(space, "grown", workers=2, script=_STAYS, grace=600))
        before = _wait_running(space, "grown", 2)
        space.api.apply(_queued(space, "waiting", workers=2))
        queues.wait_workload(space, "waiting", "QuotaReserved", "False")
        old: Any = queues.workload(space, "grown")["metadata"]["uid"]
        space.api("scale", "pytorchjob", "grown", "--replicas=3")
        # The job that waited takes the quota, even before the pods are gone.
        _wait_running(space, "waiting", 2)
        for pod in ("grown-worker-0", "grown-worker-1"):
            space.api("exec", pod, "--", "touch", "/tmp/leave")
        # When that job is gone, all pods are new ones, and so is the place in the queue.
        queues.wait_workload(space, "grown", "QuotaReserved", "False")
        space.api("delete", "pytorchjob", "waiting")
        _wait_running(space, "grown", 3, but=before)
        assert queues.workload(space, "grown")["metadata"]["uid"] != old
