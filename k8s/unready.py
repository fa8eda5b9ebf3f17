"""Which pods of dead nodes are to be cleared: a pure function of what a cluster lists, and of what was seen before.

A pod on a node that gives no sign of life stays Terminating: the API server waits for its kubelet to say that the
containers have ended. The training operator makes no replacement as long as the pod exists, so the job waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from k8s.names import PART_OF_LABEL
from k8s.objects import Object, job_of

_PROJECT = "cclm"
OURS = f"{PART_OF_LABEL}={_PROJECT}"
"""Selects pods that run cclm, whoever made their job. Other programs that `torchx run` starts lack the label."""
_TAINTS = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
"""The cluster's own verdict on a node. It evicts pods by these taints."""


@dataclass(frozen=True)
class StuckPod:
    """A pod that nobody but us will end."""

    namespace: str
    name: str
    uid: str
    job: str
    owner: Object | None
    """Entry of `ownerReferences` for the job; None if the pod belongs to none."""
    node: str
    seconds: float
    """How long the node has been seen not ready."""


@dataclass(frozen=True)
class Decision:
    """What is to be done after one look at the cluster."""

    stuck: tuple[StuckPod, ...]
    """Pods to delete by force."""
    unready: Mapping[str, float]
    """Node's uid -> when it was first seen not ready, by the clock of `now`. To be given to the next look."""
    unready_names: tuple[str, ...]
    reason_to_wait: str = ""
    """Why nothing is cleared though nodes are not ready; empty if something may be."""


def decide(
    nodes: Sequence[Object], pods: Sequence[Object], unready: Mapping[str, float], now: float, today: datetime,
    after_seconds: float,
) -> Decision:  # fmt: skip
    """Find the pods to clear.

    A node counts as dead when it has been seen not ready for `after_seconds` without a break, and the cluster has
    tainted it. The time is ours, not that of the node's conditions: neither a wrong clock nor a control plane that was
    away makes a node look dead for longer than it was watched.

    If more than half of the nodes are not ready, the control plane may be cut off rather than the nodes be dead. Then
    nothing is cleared.

    Args:
        nodes: all nodes of the cluster.
        pods: pods of any kind; others than those of our jobs are left alone.
        unready: as in the last decision.
        now: seconds of a clock that nobody sets.
        today: the time of day.
        after_seconds: how long a node is waited for.
    """
    lost = {node["metadata"]["name"]: node for node in nodes if is_lost(node)}
    since = {node["metadata"]["uid"]: unready.get(node["metadata"]["uid"], now) for node in lost.values()}
    names = tuple(sorted(lost))
    if 2 * len(lost) > len(nodes):
        return Decision(
            (), since, names,
            f"{len(lost)} of {len(nodes)} nodes are not ready, so the control plane may be cut off; nothing is cleared",
        )  # fmt: skip
    stuck = []
    for pod in pods:
        node = lost.get(pod.get("spec", {}).get("nodeName", ""))
        if node is None or not _is_ours(pod) or not _is_stuck(pod, node, today):
            continue
        seconds = now - since[node["metadata"]["uid"]]
        if seconds >= after_seconds:
            stuck.append(_stuck_pod(pod, node["metadata"]["name"], seconds))
    return Decision(tuple(stuck), since, names)


def is_lost(node: Object) -> bool:
    """Whether a node is not ready, and the cluster evicts its pods."""
    taints = {taint["key"] for taint in node["spec"].get("taints") or [] if taint.get("effect") == "NoExecute"}
    return ready_status(node) != "True" and not taints.isdisjoint(_TAINTS)


def ready_status(node: Object) -> str:
    """Status of the condition Ready: `True`, `False` (the kubelet says so), or `Unknown` (it says nothing)."""
    conditions = node.get("status", {}).get("conditions") or []
    return next((str(entry["status"]) for entry in conditions if entry["type"] == "Ready"), "Unknown")


def _is_ours(pod: Object) -> bool:
    """Whether a pod belongs to a job of ours, whose checkpoints take care of two writers."""
    labels = pod["metadata"].get("labels") or {}
    return labels.get(PART_OF_LABEL) == _PROJECT and job_of(pod) is not None


def _is_stuck(pod: Object, node: Object, today: datetime) -> bool:
    """Whether a pod is being deleted, and its kubelet will not bring that to an end.

    A kubelet that still speaks may be ending the pod: it gets the pod's grace period for that.
    """
    deleted = pod["metadata"].get("deletionTimestamp")
    if deleted is None:
        return False
    return ready_status(node) == "Unknown" or today > datetime.fromisoformat(deleted)


def _stuck_pod(pod: Object, node: str, seconds: float) -> StuckPod:
    metadata = pod["metadata"]
    owners = [owner for owner in metadata.get("ownerReferences") or [] if owner.get("controller")]
    job = job_of(pod)
    assert job is not None, "it is ours"
    owner = owners[0] if owners else None
    return StuckPod(metadata["namespace"], metadata["name"], metadata["uid"], job, owner, node, seconds)
