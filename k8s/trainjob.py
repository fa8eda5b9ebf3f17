"""A run as a TrainJob of Trainer v2 (2.2 and newer), of fixed size: a pure function, as `k8s.manifest` is.

A TrainJob refers to a runtime that the cluster's administrator keeps, and changes it by patches, which reach some
fields of a pod only. Run options beyond those are refused (`k8s.refusals`). How often pods are started again is for the
runtime to say, too.
"""

from __future__ import annotations

from typing import Any

from torchx.specs import AppDef

from k8s.manifest import job_metadata
from k8s.names import check_name
from k8s.objects import COMPLETION_INDEX
from k8s.pod import labels, pod_annotations, pod_spec
from k8s.settings import JobSettings

Manifest = dict[str, Any]

MANAGER = "cclm.dev/torchx"
"""In whose name the runtime is patched."""
NODE = "node"
"""How Trainer calls the replicated job that trains, and its container."""
LONGER_POD_NAMES = len("-node-0--xxxxx") - len("-worker-")
"""Characters by which the names of these pods are longer than those of a PyTorchJob."""

_PATCHED = (
    "serviceAccountName", "imagePullSecrets", "securityContext", "nodeSelector", "affinity", "tolerations",
    "terminationGracePeriodSeconds", "volumes",
)  # fmt: skip
"""Fields of a pod that a patch may have."""
_PATCHED_IN_CONTAINER = ("volumeMounts", "securityContext")

BEYOND_PATCHES = (
    "secrets", "config_maps", "priority_class", "scheduler_name", "host_network", "image_pull_policy",
    "service_account_token", "gang_queue", "gang_timeout", "overlay",
)  # fmt: skip
"""Run options that no patch of a runtime can carry out."""


def trainjob(app: AppDef, settings: JobSettings, name: str) -> Manifest:
    """The TrainJob of an application with one role of fixed size.

    Args:
        name: of the job; `k8s.names.job_name` makes one.

    Raises:
        UserError: a name, run option or mount that cannot be used.
    """
    (role,) = app.roles
    check_name(name, role.num_replicas, reserved=LONGER_POD_NAMES)
    pod = pod_spec(app, settings, name, rank0_host=f"{name}-{NODE}-0-0.{name}", replica_label=COMPLETION_INDEX)
    (container,) = pod["containers"]
    patched = {key: pod[key] for key in _PATCHED if key in pod}
    patched["containers"] = [
        {"name": NODE, **{key: container[key] for key in _PATCHED_IN_CONTAINER if key in container}}
    ]
    pods = {
        "metadata": {"labels": labels(app, settings, name), "annotations": pod_annotations(settings)},
        "spec": patched,
    }
    runtime = {"template": {"spec": {"replicatedJobs": [{"name": NODE, "template": {"spec": {"template": pods}}}]}}}
    spec: Manifest = {
        "runtimeRef": {
            "apiGroup": "trainer.kubeflow.org",
            "kind": "ClusterTrainingRuntime",
            "name": settings.runtime,
        },
        "trainer": {
            "image": container["image"],
            "command": container["command"],
            "args": container["args"],
            "env": container["env"],
            "numNodes": role.num_replicas,
            "numProcPerNode": max(role.resource.gpu, 1),
            "resourcesPerNode": container["resources"],
        },
        "runtimePatches": [{"manager": MANAGER, "trainingRuntimeSpec": runtime}],
    }
    if settings.deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = settings.deadline_seconds
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": job_metadata(app, settings, name),
        "spec": spec,
    }
