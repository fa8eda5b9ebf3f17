"""What the training operator makes of ends, deletions and sizes: what our launcher and scheduler rely on.

A new version of the operator may change any of it. Each job is of shells, and many of them share a test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster import faults
from tests.cluster.cluster import Cluster
from tests.cluster.common import wait_for
from tests.cluster.jobs import JOB_LABEL, pod_spec, shell_job, wait_condition
from tests.cluster.kubectl import condition
from tests.cluster.space import Space

pytestmark = pytest.mark.cluster

PATIENCE = 180
"""Seconds to wait for something that is certain to come, on a machine however busy."""
_HOLD = "until [ -e /tmp/leave ]; do sleep 0.1; done"
"""Words of a shell that waits until `_let_go`."""
_ROOM = 600
"""Seconds of grace for a shell that waits for `_let_go` after SIGTERM: more than a test takes until then."""


def _until_told(code: int, hold: str = "true") -> str:
    """A shell that goes on until SIGTERM, runs `hold`, and ends with this code."""
    return f"trap '{hold}; exit {code}' TERM; touch /tmp/ready; sleep 100000 & wait"


def _let_go(space: Space, pod: str, container: str = "pytorch") -> None:
    """Let a shell that holds go on to its end."""
    space.api("exec", pod, "-c", container, "--", "touch", "/tmp/leave")


@contextmanager
def _kept(space: Space, *pods: str) -> Iterator[None]:
    """Keep the objects of these pods after their containers have ended, until the block is over.

    The operator decides by the phase in which it finds a pod, and the kubelet removes a deleted pod as soon as its
    containers have ended. A pod that is gone before the operator looks decides nothing: the job goes on, and whether
    the operator looks in time is chance. A finalizer leaves it the time.
    """

    def finalizers(value: list[str] | None) -> tuple[str, ...]:
        return "patch", "pod", *pods, "--type=merge", "-p", json.dumps({"metadata": {"finalizers": value}})

    space.api(*finalizers(["cclm.test/seen"]))
    try:
        yield
    finally:
        space.api.attempt(*finalizers(None))  # otherwise the namespace could not be removed


def _conditions(job: Any) -> set[str]:
    return {entry["type"] for entry in job.get("status", {}).get("conditions") or [] if entry["status"] == "True"}


def _pods(space: Space, job: str) -> dict[str, Any]:
    return {item["metadata"]["name"]: item for item in space.api.get("pod", None, "-l", f"{JOB_LABEL}={job}")}


def _uid(space: Space, pod: str) -> str | None:
    item = space.api.get("pod", pod)
    return None if item is None else str(item["metadata"]["uid"])


def _wait_ready(space: Space, *jobs: str, workers: int = 2) -> None:
    """Wait until all shells of the jobs have set their traps."""
    for job in jobs:
        for index in range(workers):
            pod = f"{job}-worker-{index}"
            space.wait_phase(pod, "Running")
            ready: Callable[[Any], bool] = lambda _, pod=pod: (  # noqa: E731
                space.api.attempt("exec", pod, "--", "test", "-e", "/tmp/ready").returncode == 0
            )
            space.api.wait("pod", pod, ready, what=f"the trap of {pod}")


def _wait_replaced(space: Space, pod: str, old: str | None, timeout: float = 120) -> None:
    """Wait until another pod of this name runs."""

    def replaced(item: Any) -> bool:
        return item is not None and item["metadata"]["uid"] != old and item["status"].get("phase") == "Running"

    space.api.wait("pod", pod, replaced, what=f"a new {pod}", timeout=timeout)


def _wait_counts(space: Space, job: str, **numbers: int) -> None:
    """Wait until a job's status has these numbers of its workers."""

    def reached(item: Any) -> bool:
        counted = item.get("status", {}).get("replicaStatuses", {}).get("Worker", {})
        return numbers.items() <= counted.items()

    space.api.wait("pytorchjob", job, reached, what=f"{numbers} of {job}")


def _events(space: Space, reason: str, about: str) -> list[Any]:
    found = space.api.get("event", None, "--field-selector", f"reason={reason}")
    return [item for item in found if item["involvedObject"]["name"].startswith(about)]


def test_ends_of_containers(space: Space) -> None:
    """The first exit 0 is the job's success, 1 its failure, and 143 a restart without any bound."""
    space.need("training-operator")
    one_ends = "if [ $INDEX = 1 ]; then {hold}; echo why > /dev/termination-log; exit {code}; fi; " + _until_told(143)
    one = shell_job(space, "one", one_ends.format(hold="true", code=1))
    # The event of an end is of pods that still run: a second container keeps them running until the event is there.
    beside = {"name": "beside", "image": space.tools, "command": ["sh", "-c", _HOLD]}
    pod_spec(one)["containers"].append(beside)
    space.api.apply(
        shell_job(space, "zero", one_ends.format(hold=_HOLD, code=0)),
        shell_job(space, "zero-all", one_ends.format(hold="true", code=0), clean="All"),
        one,
        shell_job(space, "one-clean", one_ends.format(hold="true", code=1), clean="Running"),
        shell_job(space, "limit-0", "exit 143", workers=1, backoffLimit=0),
        shell_job(space, "limit-1", "exit 143", workers=1, backoffLimit=1),
    )

    def is_told() -> bool:
        told = [item["message"] for item in _events(space, "Error", "one")]
        return any("pod one-worker-1 " in word and "exitCode: 1" in word and "why" in word for word in told)

    # With a deadline far away, nothing of the rest can be over but by the ends themselves.
    wait_for(is_told, what="an event with the code and the message of one-worker-1", timeout=PATIENCE)
    _let_go(space, "one-worker-1", "beside")
    _wait_counts(space, "zero", active=2)
    _let_go(space, "zero-worker-1")
    for name in ("zero", "zero-all"):
        assert wait_condition(space.api, name, "Succeeded", "Failed") == "Succeeded"
    for name in ("one", "one-clean", "limit-0"):
        assert wait_condition(space.api, name, "Succeeded", "Failed") == "Failed"

    # A success counts for all replicas; cleanPodPolicy None leaves the others running, All deletes them.
    _wait_counts(space, "zero", succeeded=2)
    assert space.api.get("pod", "zero-worker-0")["status"]["phase"] == "Running"
    wait_for(lambda: not _pods(space, "zero-all"), what="the end of all pods of zero-all", timeout=PATIENCE)

    # A failure says neither which pod nor which code, and has no time of completion.
    one = space.api.get("pytorchjob", "one")
    (failed,) = (entry for entry in one["status"]["conditions"] if entry["type"] == "Failed")
    assert "worker-1" not in failed["message"] and "exit" not in failed["message"].lower()
    assert "completionTime" not in one["status"]

    # None lets the other pod run on, Running deletes it and keeps the failed one's log.
    assert space.api.get("pod", "one-worker-0")["metadata"].get("deletionTimestamp") is None
    wait_for(
        lambda: set(_pods(space, "one-clean")) == {"one-clean-worker-1"}, what="the end of its peer", timeout=PATIENCE
    )

    # A limit of 0 is the only one that works.
    def restarted() -> bool:
        return sum(item.get("count", 1) for item in _events(space, "SuccessfulCreatePod", "limit-1")) >= 4

    wait_for(restarted, what="more restarts of limit-1 than its backoffLimit", timeout=PATIENCE)
    assert not _conditions(space.api.get("pytorchjob", "limit-1")) & {"Succeeded", "Failed"}


def test_a_pod_that_the_kubelet_refuses_is_made_again_without_end(space: Space) -> None:
    space.need("training-operator")
    if space.owned is None:
        pytest.skip("a node is chosen by its name")
    job = shell_job(space, "refused", "true", workers=1)
    pod_spec(job)["nodeName"] = space.owned.node_names[0]  # past the scheduler, which would let it wait
    pod_spec(job)["containers"][0]["resources"] = {"requests": {"cpu": "500"}}
    space.api.apply(job)
    many = lambda: sum(item.get("count", 1) for item in _events(space, "SuccessfulCreatePod", "refused")) >= 4  # noqa: E731
    wait_for(many, what="pod after pod that the kubelet refuses", timeout=PATIENCE)
    assert "Failed" not in _conditions(space.api.get("pytorchjob", "refused"))
    space.api("delete", "pytorchjob", "refused")


def test_deleted_and_evicted_pods(space: Space) -> None:
    """What the container answers to SIGTERM decides: 143 is replaced, 1 fails the job, 0 is its success."""
    space.need("training-operator")
    codes = {"gone-143": 143, "gone-1": 1, "gone-0": 0, "evicted-143": 143, "evicted-1": 1}
    space.api.apply(*(shell_job(space, name, _until_told(code, _HOLD), grace=_ROOM) for name, code in codes.items()))
    _wait_ready(space, *codes)
    first = {name: f"{name}-worker-0" for name in codes}
    old = {name: _uid(space, pod) for name, pod in first.items()}
    with _kept(space, first["gone-1"], first["gone-0"], first["evicted-1"]):
        for name in ("gone-143", "gone-1", "gone-0"):
            faults.delete_pod(space.api, first[name])
        for name in ("evicted-143", "evicted-1"):
            faults.evict_pod(space.api, first[name])  # as a drain does
        # While they still run, they already count as failed.
        for name in codes:
            _wait_counts(space, name, failed=1)
            assert condition(space.api.get("pytorchjob", name), "Restarting")
        marks = space.api.get("pod", first["evicted-143"])["status"]["conditions"]
        assert any(one["type"] == "DisruptionTarget" and one["reason"] == "EvictionByEvictionAPI" for one in marks)
        for pod in first.values():
            _let_go(space, pod)
        for name in ("gone-1", "evicted-1"):
            assert wait_condition(space.api, name, "Succeeded", "Failed") == "Failed"
        assert wait_condition(space.api, "gone-0", "Succeeded", "Failed") == "Succeeded"
    # Restarting stays beside Failed: of two true conditions the newer one counts.
    assert _conditions(space.api.get("pytorchjob", "gone-1")) >= {"Restarting", "Failed"}
    for name in ("gone-143", "evicted-143"):
        _wait_replaced(space, first[name], old[name])
        assert wait_condition(space.api, name, "Running", "Failed") == "Running"
        # Restarting is taken out of the list, not set to False.
        entries = space.api.get("pytorchjob", name)["status"]["conditions"]
        assert "Restarting" not in {entry["type"] for entry in entries}


def test_scaling_down(space: Space) -> None:
    """The highest numbers go, with their grace, and what they end with decides over the whole job.

    It does if the operator sees their end. Otherwise they decide nothing, so here they are kept until it has.
    """
    space.need("training-operator")
    codes = {"less-143": 143, "less-1": 1, "less-0": 0}
    space.api.apply(*(shell_job(space, name, _until_told(code), workers=3) for name, code in codes.items()))
    below = shell_job(space, "below", _until_told(143), workers=2)
    below["spec"]["elasticPolicy"]["minReplicas"] = 2
    space.api.apply(shell_job(space, "none", _until_told(143), workers=1), below)
    _wait_ready(space, *codes, workers=3)
    _wait_ready(space, "below")
    deciding = [f"{name}-worker-{index}" for name in ("less-1", "less-0") for index in (1, 2)]
    with _kept(space, *deciding):
        for name in (*codes, "below"):
            space.api("scale", "pytorchjob", name, "--replicas=1")
        assert wait_condition(space.api, "less-1", "Succeeded", "Failed") == "Failed"
        assert wait_condition(space.api, "less-0", "Succeeded", "Failed") == "Succeeded"
    wait_for(
        lambda: set(_pods(space, "less-143")) == {"less-143-worker-0"},
        what="the end of workers 1 and 2", timeout=PATIENCE,
    )  # fmt: skip
    job = space.api.get("pytorchjob", "less-143")
    assert _conditions(job) >= {"Running"} and not _conditions(job) & {"Failed", "Succeeded"}
    # The variables of the pods that stay are as before.
    assert space.shell("less-143-worker-0", "echo $PET_NNODES").strip() == "1:3"
    # Nobody checks the bounds of elasticPolicy, and no replicas at all are a success.
    below_is_small = lambda: set(_pods(space, "below")) == {"below-worker-0"}  # noqa: E731
    wait_for(below_is_small, what="the end of a pod of the least", timeout=PATIENCE)
    assert not _conditions(space.api.get("pytorchjob", "below")) & {"Failed", "Succeeded"}
    space.api("scale", "pytorchjob", "less-143", "--replicas=5")
    space.wait_phase("less-143-worker-4", "Running")
    space.api("scale", "pytorchjob", "none", "--replicas=0")
    assert wait_condition(space.api, "none", "Succeeded", "Failed") == "Succeeded"


@pytest.mark.usefixtures("soak")
def test_kubelet_eviction_is_decided_by_the_exit_code_too(space: Space) -> None:
    """A container that fills its disk is told to end; killed it comes back, with 1 the job has failed."""
    space.need("training-operator")
    fill = "if [ ! -e /s/again ]; then dd if=/dev/zero of=/s/f bs=1M count=3 2>/dev/null; fi; "
    jobs = [
        shell_job(space, "full-137", fill + "exec sleep 100000", workers=1),
        shell_job(space, "full-1", fill + _until_told(1), workers=1),
    ]
    for job in jobs:
        pod_spec(job)["volumes"] = [{"name": "s", "emptyDir": {"sizeLimit": "1Mi"}}]
        pod_spec(job)["containers"][0]["volumeMounts"] = [{"name": "s", "mountPath": "/s"}]
    space.api.apply(*jobs)
    # The pod is gone within a tenth of a second, and its message with it: the event stays.
    wait_for(lambda: _events(space, "Evicted", "full-137"), what="the event of the eviction", timeout=240)
    made = lambda: sum(item.get("count", 1) for item in _events(space, "SuccessfulCreatePod", "full-137")) >= 2  # noqa: E731
    wait_for(made, what="a new pod of full-137", timeout=PATIENCE)
    assert wait_condition(space.api, "full-1", "Succeeded", "Failed") == "Failed"
    assert "exceeds the limit" in _events(space, "Evicted", "full-1")[0]["message"]


@pytest.mark.usefixtures("soak")
@pytest.mark.parametrize("clears", ["delete node {}", "taint node {} node.kubernetes.io/out-of-service=gone:NoExecute"])
def test_a_dead_node_holds_its_pods_until_somebody_clears_them(space: Space, machines: Cluster, clears: str) -> None:
    """No replacement until the pod is deleted by force, or its node is deleted or said to be out of service."""
    short = [
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2}
        for key in ("not-ready", "unreachable")
    ]
    dead = machines.node_names[0]
    jobs = [shell_job(space, name, _until_told(143), workers=1, grace=1) for name in ("forced", "cleared")]
    for job in jobs:
        pod_spec(job)["tolerations"] = short
        weighted = {"weight": 100, "preference": {"matchExpressions": [_hostname(dead)]}}
        pod_spec(job)["affinity"] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [weighted]}}
    space.api.apply(*jobs)
    _wait_ready(space, "forced", "cleared", workers=1)
    old = {name: space.api.get("pod", f"{name}-worker-0") for name in ("forced", "cleared")}
    assert {item["spec"]["nodeName"] for item in old.values()} == {dead}
    faults.kill_node(machines, dead)

    def stuck(item: Any) -> bool:
        return item["metadata"].get("deletionTimestamp") is not None and item["status"]["phase"] == "Running"

    for name in old:
        space.api.wait("pod", f"{name}-worker-0", stuck, what=f"the eviction of {name} that nobody carries out")
        space.api.wait("pytorchjob", name, lambda job: condition(job, "Restarting"), what=f"{name} restarting")
    faults.delete_pod(space.api, "forced-worker-0", grace_seconds=0)
    _wait_replaced(space, "forced-worker-0", old["forced"]["metadata"]["uid"])
    assert _uid(space, "cleared-worker-0") == old["cleared"]["metadata"]["uid"]
    space.api(*clears.format(dead).split())
    _wait_replaced(space, "cleared-worker-0", old["cleared"]["metadata"]["uid"])


def _hostname(node: str) -> dict[str, Any]:
    return {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}


def test_a_pod_that_the_namespace_refuses_leaves_the_status_empty(space: Space) -> None:
    """PodSecurity and quota: only events tell."""
    space.need("training-operator")
    space.api("label", "namespace", space.name, "pod-security.kubernetes.io/enforce=restricted")
    pod = json.dumps(space.pod_manifest("any"))
    # The API server hears of its own label a moment later.
    heeded = lambda: space.api.attempt("create", "--dry-run=server", "-f", "-", stdin=pod).returncode != 0  # noqa: E731
    wait_for(heeded, what="the label's effect", timeout=PATIENCE)
    space.api.apply(shell_job(space, "refused", "true", workers=1))
    refused = lambda: _events(space, "FailedCreatePod", "refused")  # noqa: E731
    (event, *_) = wait_for(refused, what="the event of the refusal", timeout=PATIENCE)
    assert event["type"] == "Warning" and "violates PodSecurity" in event["message"]
    job = space.api.get("pytorchjob", "refused")
    assert _conditions(job) <= {"Created"} and not _pods(space, "refused")
