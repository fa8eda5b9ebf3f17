"""Objects that a job refers to by name and that must exist before it is created. Pure, but for `check_references`.

Without them the job would be accepted, and its pods would wait for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cclm.errors import UserError
from k8s.api_errors import ClusterError, Forbidden, MissingDefinition
from k8s.client import Cluster
from k8s.objects import (
    CONFIG_MAP,
    LOCAL_QUEUE,
    PRIORITY_CLASS,
    SECRET,
    SERVICE_ACCOUNT,
    VOLUME_CLAIM,
    WORKLOAD_PRIORITY,
    Object,
    Resource,
    queue_of,
)

_SOURCES = {
    "secretRef": SECRET,
    "secretKeyRef": SECRET,
    "configMapRef": CONFIG_MAP,
    "configMapKeyRef": CONFIG_MAP,
}
"""Where environment variables come from."""
_KUEUE_PRIORITY = "kueue.x-k8s.io/priority-class"


@dataclass(frozen=True)
class Reference:
    """An object that a job refers to."""

    resource: Resource
    name: str


def references_of(job: Object) -> list[Reference]:
    """What a job and its pods refer to, each once. What Kubernetes takes as optional is left out."""
    found = []
    queue = queue_of(job)
    if queue is not None:
        found.append(Reference(LOCAL_QUEUE, queue))
    priority = (job["metadata"].get("labels") or {}).get(_KUEUE_PRIORITY)
    if priority is not None:
        found.append(Reference(WORKLOAD_PRIORITY, priority))
    for pod in _pod_specs(job["spec"]):
        found += _of_pod(pod)
    return list(dict.fromkeys(found))


def _pod_specs(part: Any) -> Iterator[Object]:
    """Every pod's spec within a job, whatever kind of job it is: what has containers."""
    if isinstance(part, dict):
        if isinstance(part.get("containers"), list):
            yield part
        for inner in part.values():
            yield from _pod_specs(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _pod_specs(inner)


def _of_pod(pod: Object) -> Iterator[Reference]:
    if pod.get("serviceAccountName"):
        yield Reference(SERVICE_ACCOUNT, pod["serviceAccountName"])
    if pod.get("priorityClassName"):
        yield Reference(PRIORITY_CLASS, pod["priorityClassName"])
    for entry in pod.get("imagePullSecrets") or []:
        yield Reference(SECRET, entry["name"])
    for volume in pod.get("volumes") or []:
        for key, resource, name in (
            ("secret", SECRET, "secretName"),
            ("configMap", CONFIG_MAP, "name"),
            ("persistentVolumeClaim", VOLUME_CLAIM, "claimName"),
        ):
            if key in volume and not volume[key].get("optional"):
                yield Reference(resource, volume[key][name])
    for container in [*(pod.get("initContainers") or []), *pod["containers"]]:
        variables = [entry["valueFrom"] for entry in container.get("env") or [] if "valueFrom" in entry]
        for source in [*(container.get("envFrom") or []), *variables]:
            for key, resource in _SOURCES.items():
                if key in source and not source[key].get("optional"):
                    yield Reference(resource, source[key]["name"])


def check_references(cluster: Cluster, namespace: str, job: Object) -> None:
    """Check that what a job refers to exists.

    What the user may not read is passed over: the job may be right all the same.

    Raises:
        UserError: something does not exist.
        ClusterError: the cluster cannot be asked.
    """
    for reference in references_of(job):
        place = namespace if reference.resource.is_namespaced else None
        try:
            if cluster.exists(reference.resource, place, reference.name):
                continue
        except Forbidden:
            continue
        except MissingDefinition as error:
            raise ClusterError(str(error)) from error
        raise UserError(_absent(reference, place))


def _absent(reference: Reference, namespace: str | None) -> str:
    kind, plural = reference.resource.kind, reference.resource.full_name
    what = {"LocalQueue": "queue (LocalQueue of Kueue)", "Secret": "secret", "ConfigMap": "config map"}.get(kind, kind)
    place = f" in namespace {namespace}" if namespace else ""
    option = f"-n {namespace} " if namespace else ""
    return (
        f"there is no {what} {reference.name}{place}, so nothing was created; see what there is with: kubectl "
        f"{option}get {plural}"
    )
