"""Reads what `k8s.state` needs to know of jobs, in few calls.

One job takes at most eleven: the job (two if it is a TrainJob), its pods, events about it, events about pods, Workloads
of Kueue, nodes (all of them in one, or up to three), and the metrics of a pod, or also of the next one where the first
does not answer or does not count the restarts of the run. All jobs together take three, and three more where the user
may not list the whole cluster. A call returns up to 500 objects; more take further calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from cclm.launch_contract import METRICS_PORT
from k8s.api_errors import ClusterError, Forbidden, MissingDefinition
from k8s.client import Cluster
from k8s.objects import (
    EVENT,
    NODE,
    OURS,
    POD,
    PYTORCH_JOB,
    TRAIN_JOB,
    WORKLOAD,
    Object,
    Resource,
    job_of,
    pods_of,
    queue_of,
)
from k8s.progress import RUN_RESTARTS
from k8s.replicas import condition
from k8s.state import Observation, newest_pods

EVENT_PAGES, NODE_PAGES = 4, 4
"""Highest number of calls for events about pods, and for nodes."""
METRICS_TRIES = 2
"""Pods that are asked for their metrics until one answers that counts the restarts of the run."""
SUSPECTS = 3
"""Nodes that are looked at one by one, as their pods look dead."""

_DULL = ("Scheduled", "Pulling", "Pulled", "Created", "Started", "BackOff", "SuccessfulAttachVolume")
"""Reasons of events about pods that tell nothing of why one ended. The API server leaves them out."""


@dataclass(frozen=True)
class Listed:
    """A job with its pods."""

    job: Object
    pods: Sequence[Object]


def find_job(cluster: Cluster, namespace: str, name: str) -> Object | None:
    """A PyTorchJob or TrainJob of this name, None if there is neither.

    Raises:
        MissingDefinition: the cluster knows neither kind.
    """
    missing = []
    for resource in (PYTORCH_JOB, TRAIN_JOB):
        try:
            found = cluster.find(resource, namespace, name)
        except MissingDefinition as error:
            missing.append(error)
            continue
        if found is not None:
            return found
    if len(missing) == 2:
        raise missing[0]
    return None


def list_jobs(cluster: Cluster) -> list[Listed]:
    """All jobs that `torchx run` made, with their pods: of the whole cluster, or where that is not allowed, of the
    kubeconfig's namespace. The newest are last.
    """
    try:
        return _jobs_in(cluster, None)
    except Forbidden:
        return _jobs_in(cluster, cluster.namespace)


def _jobs_in(cluster: Cluster, namespace: str | None) -> list[Listed]:
    def jobs_of(resource: Resource) -> list[Object] | MissingDefinition:
        try:
            return cluster.list(resource, namespace, labels=OURS)
        except MissingDefinition as error:
            return error

    with ThreadPoolExecutor(3) as pool:
        pods_coming = pool.submit(cluster.list, POD, namespace, labels=OURS)
        pytorch, train = pool.map(jobs_of, (PYTORCH_JOB, TRAIN_JOB))
        pods = pods_coming.result()
    if isinstance(pytorch, MissingDefinition) and isinstance(train, MissingDefinition):
        raise pytorch
    jobs = [job for found in (pytorch, train) if not isinstance(found, MissingDefinition) for job in found]
    by_job: dict[tuple[str, str | None], list[Object]] = {}
    for pod in pods:
        by_job.setdefault((pod["metadata"]["namespace"], job_of(pod)), []).append(pod)
    jobs.sort(key=lambda job: str(job["metadata"].get("creationTimestamp")))
    return [Listed(job, by_job.get((job["metadata"]["namespace"], job["metadata"]["name"]), ())) for job in jobs]


def observe(cluster: Cluster, job: Object) -> Observation:
    """All that can be known of a job. What the user may not read, but for the pods, is left out."""
    namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
    pods = cluster.list(POD, namespace, labels=pods_of(job))
    with ThreadPoolExecutor(5) as pool:
        about_job = pool.submit(
            _readable, cluster, EVENT, namespace, f"involvedObject.kind={job['kind']},involvedObject.name={name}"
        )
        dull = ",".join(f"reason!={reason}" for reason in _DULL)
        about_pods = pool.submit(_readable, cluster, EVENT, namespace, f"involvedObject.kind={POD.kind},{dull}")
        workloads = pool.submit(_readable, cluster, WORKLOAD, namespace) if queue_of(job) is not None else None
        nodes = pool.submit(_nodes, cluster, pods)
        metrics = pool.submit(_metrics, cluster, pods)
        names = {pod["metadata"]["name"] for pod in pods}
        events = [*(about_job.result() or ())]
        events += [event for event in about_pods.result() or () if _is_about(event, name, names)]
        return Observation(
            job,
            pods,
            datetime.now(UTC),
            events,
            workloads.result() if workloads else (),
            nodes.result(),
            metrics.result(),
        )


def _is_about(event: Object, job: str, pods: set[str]) -> bool:
    name = event["involvedObject"].get("name", "")
    return name in pods or name.startswith((f"{job}-worker-", f"{job}-node-"))


def _readable(cluster: Cluster, resource: Resource, namespace: str, fields: str = "") -> list[Object] | None:
    """Objects of a kind, None if the user may not read them."""
    try:
        return cluster.list(resource, namespace, fields=fields, pages=EVENT_PAGES)
    except (Forbidden, MissingDefinition):
        return None


def _nodes(cluster: Cluster, pods: Sequence[Object]) -> Mapping[str, Object]:
    """Nodes that explain something: all of them where a pod finds no room, else those of pods that look dead."""
    try:
        if any((condition(pod, "PodScheduled") or {}).get("reason") == "Unschedulable" for pod in pods):
            return {node["metadata"]["name"]: node for node in cluster.list(NODE, pages=NODE_PAGES)}
        suspects = sorted({pod["spec"]["nodeName"] for pod in pods if _looks_dead(pod)})[:SUSPECTS]
        found = {name: cluster.find(NODE, None, name) for name in suspects}
        return {name: node for name, node in found.items() if node is not None}
    except Forbidden:
        return {}


def _looks_dead(pod: Object) -> bool:
    """Whether the node of a pod may be dead: the pod should be ready or gone, and is not."""
    is_ready = (condition(pod, "Ready") or {}).get("status") == "True"
    is_leaving = "deletionTimestamp" in pod["metadata"]
    return (
        bool(pod["spec"].get("nodeName")) and pod["status"].get("phase") == "Running" and (is_leaving or not is_ready)
    )


def _metrics(cluster: Cluster, pods: Sequence[Object]) -> str | None:
    """Metrics of a pod that trains, None if none serves them or none answers.

    All pods tell how far the run is. Only that of node 0, mostly the first one, counts the restarts of the run.
    """
    serving = [
        (pod["metadata"], port)
        for _, pod in sorted(newest_pods(pods).items())
        if (condition(pod, "Ready") or {}).get("status") == "True"
        and "deletionTimestamp" not in pod["metadata"]
        and (port := _metrics_port(pod)) is not None
    ]
    found = None
    for metadata, port in serving[:METRICS_TRIES]:
        try:
            text = cluster.pod_metrics(metadata["namespace"], metadata["name"], port)
        except Forbidden:
            return found
        except ClusterError:
            continue
        if RUN_RESTARTS in text:
            return text
        found = found or text
    return found


def _metrics_port(pod: Object) -> int | None:
    """The port named metrics or, in a pod of a TrainJob, whose ports cannot be given, that of the variable."""
    containers = pod["spec"]["containers"]
    ports = [port for container in containers for port in container.get("ports") or []]
    named = next((int(port["containerPort"]) for port in ports if port.get("name") == "metrics"), None)
    if named is not None:
        return named
    variables = [variable for container in containers for variable in container.get("env") or []]
    text = next((variable.get("value") for variable in variables if variable["name"] == METRICS_PORT), None)
    return int(text) if text and text.isdecimal() else None
