"""A run as a PyTorchJob of the training operator: a pure function of the application and the run options."""

from __future__ import annotations

from typing import Any

from torchx.specs import AppDef, Role

from k8s import overlay
from k8s.names import check_name, worker_name
from k8s.objects import QUEUE_NAME, QUEUE_PRIORITY, REPLICA_INDEX
from k8s.pod import labels, pod_annotations, pod_spec
from k8s.settings import JobSettings

Manifest = dict[str, Any]


def min_pods(role: Role) -> int:
    """Pods without which a run does not go on."""
    return int(role.num_replicas if role.min_replicas is None else role.min_replicas)


def job_metadata(app: AppDef, settings: JobSettings, name: str) -> Manifest:
    """Metadata of a job of either kind."""
    found = labels(app, settings, name)
    if settings.queue:
        found[QUEUE_NAME] = settings.queue
    if settings.kueue_priority:
        found[QUEUE_PRIORITY] = settings.kueue_priority
    metadata: Manifest = {"name": name, "labels": found}
    if settings.namespace:
        metadata["namespace"] = settings.namespace
    if settings.annotations:
        metadata["annotations"] = dict(settings.annotations)
    return metadata


def pytorchjob(app: AppDef, settings: JobSettings, name: str) -> Manifest:
    """The PyTorchJob of an application with one role. Nothing is suspended here: Kueue's webhook does that itself.

    Args:
        name: of the job; `k8s.names.job_name` makes one.

    Raises:
        UserError: a name, run option or mount that cannot be used.
    """
    (role,) = app.roles
    check_name(name, role.num_replicas)
    template: Manifest = {
        "metadata": {"labels": labels(app, settings, name), "annotations": pod_annotations(settings)},
        "spec": pod_spec(app, settings, name, rank0_host=worker_name(name, 0), replica_label=REPLICA_INDEX),
    }
    if settings.overlay is not None:
        template = overlay.merge(template, overlay.read(settings.overlay))
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": job_metadata(app, settings, name),
        "spec": {
            "nprocPerNode": str(role.resource.gpu) if role.resource.gpu > 0 else "1",
            "elasticPolicy": {
                "minReplicas": min_pods(role),
                "maxReplicas": role.num_replicas,
                "rdzvBackend": "c10d",
                "rdzvId": name,
                "rdzvConf": [
                    {"key": "join_timeout", "value": str(settings.join_timeout)},
                    {"key": "last_call_timeout", "value": str(settings.last_call_timeout)},
                ],
            },
            "runPolicy": _run_policy(role, settings),
            # Worker only: a Master would give the workers an init container that PodSecurity "restricted" refuses.
            "pytorchReplicaSpecs": {
                "Worker": {"replicas": role.num_replicas, "restartPolicy": "ExitCode", "template": template}
            },
        },
    }


def _run_policy(role: Role, settings: JobSettings) -> Manifest:
    # Running: after a failure the other pods leave their GPUs, and the failed pod stays for its log.
    policy: Manifest = {"cleanPodPolicy": "Running"}
    if not settings.restart_pods:
        # The only number that works: with any other one the operator restarts for ever.
        policy["backoffLimit"] = 0
    if settings.deadline_seconds is not None:
        policy["activeDeadlineSeconds"] = settings.deadline_seconds
    if settings.gang:
        gang: Manifest = {"minAvailable": min_pods(role)}
        if settings.gang_queue:
            gang["queue"] = settings.gang_queue
        if settings.gang_timeout is not None:
            gang["scheduleTimeoutSeconds"] = settings.gang_timeout
        if settings.priority_class:
            gang["priorityClass"] = settings.priority_class
        policy["schedulingPolicy"] = gang
    return policy
