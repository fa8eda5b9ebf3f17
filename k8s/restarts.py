"""How often the pods of a job were started again, and why: read from events, as the pods themselves are gone. Pure.

The API server keeps events for an hour, so this is what happened in the last hour. The operator's own counts in the
status of a job are of no use: they count a pod that is being deleted as failed, and are not cumulative.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cclm.launch.causes import Cause
from cclm.launch_contract import EXIT_PREEMPTED
from k8s.objects import POD, Object
from k8s.progress import facts_of

_CREATED = re.compile(r"Created pod: (?P<pod>\S+)$")
_ENDED = re.compile(
    r"Error pod (?P<pod>\S+) container \S+ exitCode: (?P<code>\d+) terminated message: ?(?P<message>.*)$", re.DOTALL
)
_OF_POD = {
    "Evicted": "evicted by its node",
    "TaintManagerEviction": "its node is lost, or was tainted",
    "Preempted": "pre-empted by a pod of higher priority",
    "Killing": "deleted, evicted or drained",
    "DeletingNode": "its node was deleted",
}
"""Reason of a pod's event to what it means. The first ones tell more than the last ones."""
_REFUSED = re.compile(r"OutOf\w+|NodeAffinity|UnexpectedAdmissionError|Topology\w+Error|NodeShutdown")
"""Reasons with which a kubelet refuses a pod that was bound to its node."""
_AT_ONCE = timedelta(seconds=10)
"""Kueue stops a job, and its pods are killed, within such a time."""
_LONGEST = 600
"""Characters of a container's message that are shown."""
_MEANINGS = {cause.code: cause.meaning for cause in Cause}


@dataclass(frozen=True)
class PodEnd:
    """Ends of one replica's pods that have the same cause."""

    replica: int
    cause: str
    times: int
    last: datetime | None


@dataclass(frozen=True)
class Restarts:
    """What events tell about earlier pods of a job."""

    times: Mapping[int, int]
    """Replica to how often its pod was started again."""
    ends: tuple[PodEnd, ...]
    refused: Mapping[int, int]
    """Replica to how many of its pods a kubelet refused before they started."""

    @property
    def total(self) -> int:
        """Over all replicas."""
        return sum(self.times.values())


def time_of(event: Object) -> datetime | None:
    """When an event happened last."""
    series = event.get("series") or {}
    text = event.get("lastTimestamp") or series.get("lastObservedTime") or event.get("eventTime")
    return datetime.fromisoformat(text) if text else None


def times_of(event: Object) -> int:
    """How often an event happened."""
    return int(event.get("count") or (event.get("series") or {}).get("count") or 1)


def exit_words(code: int, reason: str | None, message: str) -> str:
    """Why a container ended, in words.

    Args:
        code: its exit code.
        reason: Kubernetes' own word. OOMKilled comes with any exit code, also 0.
        message: what it wrote to its termination log; empty if nothing.
    """
    words = message.rstrip().rpartition("\n")[0] if facts_of(message) else message
    text = " ".join(words.split())
    if len(text) > _LONGEST:  # the last lines of the log, which Kubernetes takes where nothing else was written
        text = f"... {text[-_LONGEST:]}"
    if reason == "OOMKilled":
        return "out of memory (OOMKilled): raise the memory limit, or lower what the run needs" + (
            f"; {text}" if text else ""
        )
    if text:
        return f"exit code {code}: {text}"
    return f"exit code {code}" + (f": {_MEANINGS[code]}" if code in _MEANINGS else "")


def read_restarts(replicas: Mapping[str, int], pods: Sequence[Object], events: Sequence[Object]) -> Restarts:
    """How often and why pods were started again.

    Args:
        replicas: name of a pod to the replica's number, for all that the job may have.
        pods: those that exist now. What ended one of them is no restart yet.
        events: about the job and its pods.
    """
    created: dict[int, int] = defaultdict(int)
    uids: dict[int, set[str]] = defaultdict(set)
    for pod in pods:
        if pod["metadata"]["name"] in replicas:
            uids[replicas[pod["metadata"]["name"]]].add(pod["metadata"]["uid"])
    refused: dict[int, int] = defaultdict(int)
    for event in events:
        about = event["involvedObject"]
        if about.get("kind") == POD.kind and about["name"] in replicas:
            index = replicas[about["name"]]
            if about.get("uid"):
                uids[index].add(about["uid"])
            if _REFUSED.fullmatch(event.get("reason") or ""):
                refused[index] += times_of(event)
        match = _CREATED.search(event.get("message") or "")
        if match and event.get("reason") == "SuccessfulCreatePod" and match["pod"] in replicas:
            created[replicas[match["pod"]]] += times_of(event)
    known = sorted(created.keys() | uids.keys())
    times = {index: max(created[index], len(uids[index]), 1) - 1 for index in known}
    present = {pod["metadata"]["uid"] for pod in pods}
    ends = (*_exits(replicas, events), *_ends_of_pods(replicas, present, events))
    happened = [end for end in ends if times.get(end.replica)]
    return Restarts(
        {index: count for index, count in times.items() if count},
        tuple(sorted(happened, key=lambda end: (end.replica, end.last.timestamp() if end.last else 0))),
        dict(refused),
    )


def _exits(replicas: Mapping[str, int], events: Iterable[Object]) -> Iterable[PodEnd]:
    """Ends of containers by themselves, from the operator's events about the job."""
    for event in events:
        match = _ENDED.search(event.get("message") or "")
        if match is None or match["pod"] not in replicas:
            continue
        if int(match["code"]) == EXIT_PREEMPTED:
            continue  # who stopped the pod is told by the pod's own events
        cause = exit_words(int(match["code"]), event.get("reason"), match["message"])
        yield PodEnd(replicas[match["pod"]], cause, times_of(event), time_of(event))


def _ends_of_pods(replicas: Mapping[str, int], present: set[str], events: Iterable[Object]) -> Iterable[PodEnd]:
    """Ends of pods by others, from the events about pods."""
    ended = [
        event
        for event in events
        if event["involvedObject"].get("kind") == POD.kind
        and event["involvedObject"]["name"] in replicas
        and (event.get("reason") in _OF_POD or _REFUSED.fullmatch(event.get("reason") or ""))
        and event["involvedObject"].get("uid") not in present
    ]
    best: dict[tuple[str, str], Object] = {}
    for event in ended:
        key = event["involvedObject"]["name"], _uid_of(event, ended)
        if key not in best or _rank(event["reason"]) < _rank(best[key]["reason"]):
            best[key] = event
    alike: dict[tuple[int, str], list[Object]] = defaultdict(list)
    for event in best.values():
        cause = _OF_POD.get(event["reason"]) or f"refused by its node ({event['reason']})"
        if event["reason"] == "Killing":
            cause = _stop_by_kueue(event, events) or cause
        if event["reason"] in ("Evicted", "Preempted"):
            cause += f": {' '.join((event.get('message') or '').split())}"
        alike[replicas[event["involvedObject"]["name"]], cause].append(event)
    for (index, cause), same in alike.items():
        moments = [moment for moment in map(time_of, same) if moment is not None]
        yield PodEnd(index, cause, len(same), max(moments, default=None))


def _uid_of(event: Object, others: Iterable[Object]) -> str:
    """Of the pod that an event is about. The taint manager leaves it out; then that of the pod killed at that time."""
    about, moment = event["involvedObject"], time_of(event)
    if about.get("uid"):
        return str(about["uid"])
    for other in others:
        uid, happened = other["involvedObject"].get("uid"), time_of(other)
        if not uid or other["involvedObject"]["name"] != about["name"]:
            continue
        if moment is not None and happened is not None and abs(happened - moment) < _AT_ONCE:
            return str(uid)
    return str(moment)


def _stop_by_kueue(killing: Object, events: Iterable[Object]) -> str | None:
    """The reason with which Kueue stopped the whole job when a pod was killed; None if it did not."""
    moment = time_of(killing)
    for event in events:
        stopped = time_of(event)
        if event.get("reason") == "Stopped" and moment and stopped and abs(moment - stopped) < _AT_ONCE:
            message = (event.get("message") or "").partition(" (UID:")[0]
            return f"stopped by Kueue: {' '.join(message.split())}"
    return None


def _rank(reason: str) -> int:
    order = list(_OF_POD)
    return order.index(reason) if reason in order else -1
