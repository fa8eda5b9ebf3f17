"""What each pod of a job does, and why it waits or failed. Pure.

The operator's status of a job counts a pod as failed as soon as it is being deleted, and as active while its node is
dead. So the pods themselves are read.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from k8s.objects import JOB_NAME, JOB_SET_NAME, Object
from k8s.quantities import amount, in_words
from k8s.restarts import exit_words


class State(enum.Enum):
    """Of a job, or of one of its replicas."""

    SUBMITTED = "submitted"
    """The job exists, and nobody has taken it up yet."""
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Failure:
    """How a container failed."""

    sentence: str
    exit_code: int | None
    time: datetime | None


@dataclass(frozen=True)
class Replica:
    """One replica of a job, which is one pod at a time."""

    index: int
    state: State
    pod: str | None = None
    node: str | None = None
    waits_for: str | None = None
    """Why it does not train, or why it is about to stop; None while it runs."""
    failure: Failure | None = None
    lost_node: str | None = None
    """The dead node that holds up its replacement."""


_IMAGE_TROUBLES = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_IMAGE_PREFIX = re.compile(
    r"^(Back-off pulling image \S+: )?(\w+: )?"
    r"(failed to pull and unpack image \S+: )?(failed to resolve reference \S+: )?"
)
"""What stands before the reason in messages about images, and repeats their name."""
_DISRUPTIONS = {
    "EvictionByEvictionAPI": "evicted, as by a drain of its node",
    "DeletionByTaintManager": "its node is lost, or was tainted",
    "PreemptionByScheduler": "pre-empted by a pod of higher priority",
    "TerminationByKubelet": "evicted by its node",
    "DeletionByPodGC": "its node is gone",
}
"""Reason of the condition DisruptionTarget to what it means."""
_SLACK = timedelta(seconds=5)
"""A pod that is still there this time after its grace is stuck."""


def read_replica(index: int, pod: Object | None, container: str, nodes: Mapping[str, Object], now: datetime) -> Replica:
    """What one replica does.

    Args:
        index: its number.
        pod: its pod; None if there is none.
        container: name of the container that trains.
        nodes: those that are known, by name.
        now: the time.
    """
    if pod is None:
        return Replica(index, State.PENDING, waits_for="its pod is not created yet")
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    node = pod["spec"].get("nodeName")
    entries = (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
    main = next((entry for entry in entries if entry["name"] == container), None)
    ended = ((main or {}).get("state") or {}).get("terminated")
    phase = status.get("phase")
    if phase == "Succeeded" or (ended and ended["exitCode"] == 0 and ended.get("reason") != "OOMKilled"):
        return Replica(index, State.SUCCEEDED, name, node)
    if phase == "Failed" or ended:
        return Replica(index, State.FAILED, name, node, failure=_failure(status, ended))
    if pod["metadata"].get("deletionTimestamp"):
        return _leaving(index, pod, main, nodes, now)
    if phase == "Running" and main and main.get("state", {}).get("running"):
        silent = node if _is_silent(pod, nodes.get(node)) else None
        reason = f"node {silent} does not answer; its pod is replaced when the node is given up" if silent else None
        return Replica(index, State.RUNNING, name, node, reason, lost_node=silent)
    return Replica(index, State.PENDING, name, node, _reason_to_wait(pod, entries, nodes))


def _failure(status: Object, ended: Object | None) -> Failure:
    if ended is None:  # refused or evicted by the kubelet before or while the container ran
        words = ": ".join(filter(None, (status.get("reason"), status.get("message"))))
        return Failure(words or "the pod failed without a reason", None, None)
    text = exit_words(ended["exitCode"], ended.get("reason"), ended.get("message") or "")
    if status.get("reason"):  # evicted, with the container's own exit code
        text = f"{status['reason']} ({' '.join((status.get('message') or '').split())}); {text}"
    finished = ended.get("finishedAt")
    return Failure(text, ended["exitCode"], datetime.fromisoformat(finished) if finished else None)


def _leaving(index: int, pod: Object, main: Object | None, nodes: Mapping[str, Object], now: datetime) -> Replica:
    """A pod with a deletion mark: it ends within its grace, or it is stuck on a node that does not answer."""
    name, node = pod["metadata"]["name"], pod["spec"].get("nodeName")
    disruption = condition(pod, "DisruptionTarget")
    reason = _DISRUPTIONS.get(disruption.get("reason", "")) if disruption else None
    # The mark is the moment at which the grace ends.
    is_stuck = now > datetime.fromisoformat(pod["metadata"]["deletionTimestamp"]) + _SLACK
    is_running = bool((main or {}).get("state", {}).get("running"))
    state = State.RUNNING if is_running and not is_stuck else State.PENDING
    if node is not None and (is_stuck or _is_silent(pod, nodes.get(node))):
        return Replica(index, State.PENDING, name, node, _dead_node_words(pod, node), lost_node=node)
    return Replica(index, state, name, node, f"saves and leaves: {reason or 'its pod is being deleted'}")


def _dead_node_words(pod: Object, node: str) -> str:
    """For what a pod waits whose node does not answer, and what clears it."""
    labels = pod["metadata"].get("labels") or {}
    label = JOB_NAME if JOB_NAME in labels else JOB_SET_NAME
    return (
        f"waits for dead node {node}: Kubernetes makes no new pod while the old one may still run there. It goes on "
        "when the node comes back, or its Node object is deleted. If the machine is off for certain, clear it with: "
        f"kubectl taint node {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute, or: kubectl -n "
        f"{pod['metadata']['namespace']} delete pod -l {label}={labels.get(label)} --field-selector "
        f"spec.nodeName={node} --force --grace-period=0"
    )


def is_up(pod: Object) -> bool:
    """Whether a pod runs, as far as it tells: its node may be dead since a moment ago."""
    entries = (pod.get("status") or {}).get("containerStatuses") or []
    is_running = any((entry.get("state") or {}).get("running") for entry in entries)
    return is_running and (pod.get("status") or {}).get("phase") == "Running" and not _is_silent(pod, None)


def _is_silent(pod: Object, node: Object | None) -> bool:
    """Whether the node of a pod is not heard of. The pods of such a node are marked as not ready, too."""
    if node is not None:
        return (condition(node, "Ready") or {}).get("status") != "True"
    ready = condition(pod, "Ready")
    entries = (pod.get("status") or {}).get("containerStatuses") or []
    is_up = bool(entries) and all(entry.get("ready") for entry in entries)
    return is_up and ready is not None and ready["status"] != "True" and not ready.get("reason")


def _reason_to_wait(pod: Object, entries: Iterable[Object], nodes: Mapping[str, Object]) -> str:
    placed = condition(pod, "PodScheduled")
    if placed and placed["status"] != "True":
        if placed.get("reason") == "SchedulingGated":
            return "its pod is held back by a scheduling gate"
        message = (placed.get("message") or "").partition(" preemption:")[0].rstrip(". ")
        return f"no node has room: {message or placed.get('reason')}{_shortage(pod, nodes)}"
    for entry in entries:
        waiting = (entry.get("state") or {}).get("waiting")
        if not waiting or waiting.get("reason") in (None, "ContainerCreating", "PodInitializing"):
            continue
        message = " ".join((waiting.get("message") or "").split())
        if waiting["reason"] in _IMAGE_TROUBLES:
            return f"image {entry.get('image')} cannot be pulled: {_IMAGE_PREFIX.sub('', message) or waiting['reason']}"
        return f"{waiting['reason']}: {message}".rstrip(": ")
    if pod["spec"].get("nodeName"):
        return f"its container is being started on node {pod['spec']['nodeName']}"
    return "its pod is not placed on a node yet"


def requests_of(pod: Object) -> dict[str, float]:
    """What the containers of a pod ask for together, by resource."""
    total: dict[str, float] = {}
    for container in pod["spec"].get("containers") or []:
        resources = container.get("resources") or {}
        for name, text in {**(resources.get("limits") or {}), **(resources.get("requests") or {})}.items():
            total[name] = total.get(name, 0.0) + amount(text)
    return total


def _shortage(pod: Object, nodes: Mapping[str, Object]) -> str:
    """By how much a pod does not fit, compared with the largest node for each resource; empty if no node is known."""
    if not nodes:
        return ""
    asked = requests_of(pod)
    short = []
    for name, wanted in sorted(asked.items()):
        offers = [amount((node["status"].get("allocatable") or {}).get(name, "0")) for node in nodes.values()]
        if wanted > max(offers):
            most, missing = in_words(name, max(offers)), in_words(name, wanted - max(offers))
            short.append(f"it asks for {name} {in_words(name, wanted)}, the largest node has {most}: {missing} too few")
    if short:
        return "; " + "; ".join(short)
    words = ", ".join(f"{name} {in_words(name, wanted)}" for name, wanted in sorted(asked.items()))
    return f"; it asks for {words}, and the nodes that are large enough are taken or excluded" if words else ""


def condition(item: Object, kind: str) -> Object | None:
    """A condition in the status of an object, whatever its value; None if it is not there."""
    found = (item.get("status") or {}).get("conditions") or []
    return next((entry for entry in found if entry["type"] == kind), None)


def is_true(item: Object, kind: str) -> bool:
    """Whether a condition of an object is true. Those that no longer are stay in the list."""
    return (condition(item, kind) or {}).get("status") == "True"
