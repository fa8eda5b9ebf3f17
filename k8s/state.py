"""What a job does: read from the job, its pods, events, Kueue's Workloads, and the metrics of the run. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from k8s.objects import CANCELLED, CONTAINER_OF, OPERATOR_PODS, PYTORCH_JOB, Object, queue_of, replica_index
from k8s.progress import Progress, last_progress, read_progress
from k8s.queueing import queue_words
from k8s.replicas import Failure, Replica, State, condition, is_true, is_up, read_replica
from k8s.restarts import Restarts, exit_words, read_restarts, time_of, times_of

PATIENCE = timedelta(seconds=30)
"""How long an operator may take until it has written something into the status of a new job."""
MANY_REFUSALS = 5
"""So often has a kubelet refused pods of one replica when that is called a loop."""

_DEADLINE = "active longer than specified deadline"
"""How the operator words that a job's time is over."""
_FAILED_EVENT = re.compile(
    r"Error pod (?P<pod>\S+) container \S+ exitCode: (?P<code>\d+) terminated message: ?(?P<message>.*)$", re.DOTALL
)


@dataclass(frozen=True)
class Observation:
    """What was read of a job. All but the job and its pods may be missing; then less is known."""

    job: Object
    pods: Sequence[Object]
    now: datetime
    events: Sequence[Object] = ()
    """About the job and its pods."""
    workloads: Sequence[Object] | None = ()
    """Kueue's, of the job's namespace; None if they may not be read."""
    nodes: Mapping[str, Object] = field(default_factory=dict)
    """By name."""
    metrics: str | None = None
    """What one of the pods serves at `/metrics`."""


@dataclass(frozen=True)
class Description:
    """What a job does."""

    state: State
    reason: str | None
    """Why the job as a whole does not train; None if it does, or if its replicas tell."""
    failure: Failure | None
    """Why the job failed; None if it did not."""
    replicas: tuple[Replica, ...]
    restarts: Restarts
    progress: Progress | None

    def lines(self) -> list[str]:
        """The description for people, a sentence a line. States of replicas that just run are left out."""
        told = []
        if self.failure is not None:
            told.append(self.failure.sentence)
        if self.reason is not None:
            told.append(self.reason)
        if self.progress is not None and str(self.progress):
            told.append(str(self.progress))
        waiting: dict[str, list[int]] = defaultdict(list)
        if self.state in (State.PENDING, State.RUNNING, State.SUBMITTED):
            for replica in self.replicas:
                if replica.waits_for and not (self.reason and replica.pod is None):
                    waiting[replica.waits_for].append(replica.index)
        told += [f"replica {_ranges(indices)}: {text}" for text, indices in waiting.items()]
        return told + self._restart_lines()

    def _restart_lines(self) -> list[str]:
        told = []
        for index, times in sorted(self.restarts.times.items()):
            causes = [
                f"{end.cause}{f' ({end.times} times)' if end.times > 1 else ''}"
                f"{f', last at {end.last:%H:%M:%S} UTC' if end.last else ''}"
                for end in self.restarts.ends
                if end.replica == index
            ]
            told.append(f"replica {index} was started again {_times(times)}: {'; '.join(causes) or 'cause not known'}")
        return told + self._restarts_of_run()

    def _restarts_of_run(self) -> list[str]:
        """Restarts of the processes: of the whole run, or where nobody has told, in one pod."""
        if self.progress is None:
            return []
        counted = self.progress.run_restarts
        if counted:
            causes = ", ".join(f"{cause} {counted[cause]}" for cause in sorted(counted))
            return [f"since the run began its processes were started again {_times(sum(counted.values()))}: {causes}"]
        told = []
        for cause, times in sorted((self.progress.restarts or {}).items() if counted is None else ()):
            told.append(f"processes were started again in their pod {_times(times)}: {cause}")
        return told


def describe(seen: Observation) -> Description:
    """What a job does."""
    seen = replace(seen, events=[event for event in seen.events if _belongs(event, seen.job)])
    container = CONTAINER_OF[seen.job["kind"]]
    newest = newest_pods(seen.pods)
    count = max([replicas_of(seen.job), *(index + 1 for index in newest)])
    replicas = tuple(
        read_replica(index, newest.get(index), container, seen.nodes, seen.now)
        for index in range(count)
        if index < replicas_of(seen.job) or index in newest
    )
    names = {f"{seen.job['metadata']['name']}-worker-{index}": index for index in range(largest_size(seen.job))}
    names |= {pod["metadata"]["name"]: index for index, pod in newest.items()}
    restarts = read_restarts(names, seen.pods, seen.events)
    state = job_state(seen.job, seen.pods)
    return Description(
        state,
        _reason(state, seen, restarts),
        _failure(seen, replicas) if state is State.FAILED else None,
        replicas,
        restarts,
        _progress(state, seen, container),
    )


def _progress(state: State, seen: Observation, container: str) -> Progress | None:
    """How far the run is, or after its end, how far it came."""
    if state is State.RUNNING:
        return read_progress(seen.metrics) if seen.metrics else None
    if state not in (State.SUCCEEDED, State.FAILED):
        return None
    found = [
        progress
        for pod in seen.pods
        for entry in (pod.get("status") or {}).get("containerStatuses") or []
        if entry["name"] == container
        and (progress := last_progress(((entry.get("state") or {}).get("terminated") or {}).get("message") or ""))
    ]
    return max(found, key=lambda progress: progress.step or 0, default=None)


def _belongs(event: Object, job: Object) -> bool:
    """Whether an event is not about an earlier job of the same name."""
    about = event["involvedObject"]
    if about.get("kind") == job["kind"]:
        return about.get("uid") in (None, job["metadata"]["uid"])
    moment, created = time_of(event), job["metadata"].get("creationTimestamp")
    return moment is None or created is None or moment >= datetime.fromisoformat(created)


def job_state(job: Object, pods: Sequence[Object]) -> State:
    """The state of a job as a whole; needs no events."""
    is_training = any(is_up(pod) for pod in pods)
    if CANCELLED in (job["metadata"].get("annotations") or {}):
        # It is over when the last pod has saved and left.
        return State.RUNNING if is_training else State.CANCELLED
    if is_true(job, "Failed"):
        return State.FAILED
    if is_true(job, "Succeeded") or is_true(job, "Complete"):
        return State.SUCCEEDED
    if is_training:
        return State.RUNNING
    has_status = bool((job.get("status") or {}).get("conditions"))
    return State.PENDING if has_status or pods else State.SUBMITTED


def replicas_of(job: Object) -> int:
    """How many pods a job has now."""
    spec = job["spec"]
    if job["kind"] == PYTORCH_JOB.kind:
        specs = spec.get("pytorchReplicaSpecs") or {}
        return sum(int(part.get("replicas", 1)) for part in specs.values())
    return int((spec.get("trainer") or {}).get("numNodes") or 1)


def smallest_size(job: Object) -> int:
    """With how few pods a job may train."""
    policy = job["spec"].get("elasticPolicy") or {}
    return int(policy.get("minReplicas") or policy.get("maxReplicas") or replicas_of(job))


def largest_size(job: Object) -> int:
    """With how many pods a job may train, or has been told to."""
    policy = job["spec"].get("elasticPolicy") or {}
    return max(replicas_of(job), int(policy.get("maxReplicas") or policy.get("minReplicas") or 0))


def newest_pods(pods: Iterable[Object]) -> dict[int, Object]:
    """The pod of each replica. Where an old one is still leaving, it is the newer one."""
    found: dict[int, Object] = {}
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp"))):
        index = replica_index(pod)
        if index is not None:
            found[index] = pod
    return found


def _reason(state: State, seen: Observation, restarts: Restarts) -> str | None:
    job = seen.job
    if CANCELLED in (job["metadata"].get("annotations") or {}):
        when = job["metadata"]["annotations"][CANCELLED]
        leaving = sum(1 for pod in seen.pods if is_up(pod))
        return f"cancelled at {when}" + (f"; {leaving} of its pods still save and leave" if leaving else "")
    if state in (State.SUCCEEDED, State.FAILED):
        return None
    if queue_of(job) is not None:
        words = queue_words(job, seen.workloads, is_training=state is State.RUNNING)
        if words is not None:
            return words
    elif is_true(job, "Suspended"):
        return "suspended by hand (spec.runPolicy.suspend); it goes on when that is set to false"
    looping = {index: count for index, count in restarts.refused.items() if count >= MANY_REFUSALS}
    if looping:
        return _refusal_words(looping, seen.events)
    if not seen.pods:
        return _no_pods(seen)
    return None


def _no_pods(seen: Observation) -> str | None:
    """Why a job has no pods at all. Where their creation is refused, only events tell; its status stays empty."""
    refusals = [event for event in seen.events if event.get("reason") == "FailedCreatePod"]
    if refusals:
        last = max(refusals, key=lambda event: str(time_of(event)))
        message = " ".join((last.get("message") or "").removeprefix("Error creating: ").split())
        return f"its pods are refused (tried {_times(times_of(last))}): {message}"
    created = seen.job["metadata"].get("creationTimestamp")
    has_status = bool((seen.job.get("status") or {}).get("conditions"))
    if has_status or created is None or seen.now < datetime.fromisoformat(created) + PATIENCE:
        return None
    age = round((seen.now - datetime.fromisoformat(created)).total_seconds())
    kind = seen.job["kind"]
    name = "the training operator" if kind == PYTORCH_JOB.kind else "Kubeflow Trainer"
    return f"{name} does not answer: nothing has happened for {age} s; see kubectl get pods -A {OPERATOR_PODS[kind]}"


def _refusal_words(looping: Mapping[int, int], events: Sequence[Object]) -> str:
    messages = [
        f"{event['reason']}: {' '.join((event.get('message') or '').split())}"
        for event in events
        if (event.get("reason") or "").startswith(("OutOf", "NodeAffinity", "UnexpectedAdmission", "Topology"))
    ]
    return (
        f"the node refuses its pods again and again ({sum(looping.values())} times, replica "
        f"{_ranges(sorted(looping))}): {messages[-1] if messages else 'no reason given'}; the operator would go on for "
        "ever: cancel the job and run it elsewhere"
    )


def _failure(seen: Observation, replicas: Sequence[Replica]) -> Failure:
    """Why a job failed: what its own pods tell, else the events about pods that are gone, else the job's condition."""
    message = str((condition(seen.job, "Failed") or {}).get("message") or "")
    if _DEADLINE in message:  # its pods were stopped by that, and tell nothing
        limit = (seen.job["spec"].get("runPolicy") or {}).get("activeDeadlineSeconds")
        return Failure(f"it was stopped after {limit} s, as the run option deadline_seconds says", None, None)
    failed = [(replica.index, replica.failure) for replica in replicas if replica.failure]
    # A code below 128 is what the operator took for final. The others ended because of it.
    first = [entry for entry in failed if (entry[1].exit_code or 0) < 128] or failed
    if first:
        same = [index for index, failure in first if failure.sentence == first[0][1].sentence]
        chosen = first[0][1]
        return Failure(f"replica {_ranges(same)} failed: {chosen.sentence}", chosen.exit_code, chosen.time)
    ends = [(event, _FAILED_EVENT.search(event.get("message") or "")) for event in seen.events]
    known = sorted(
        ((event, match) for event, match in ends if match),
        key=lambda pair: (int(pair[1]["code"]) >= 128, str(time_of(pair[0]))),
    )
    if known:
        event, match = known[0]
        words = exit_words(int(match["code"]), event.get("reason"), match["message"])
        return Failure(f"pod {match['pod']} failed: {words}", int(match["code"]), time_of(event))
    return Failure(message or "the job failed, and its events are gone", None, None)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _ranges(indices: Sequence[int]) -> str:
    """Numbers in ascending order, in short: 0-3, 7."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
