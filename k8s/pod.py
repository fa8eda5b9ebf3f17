"""The pod of a job, from TorchX's role and the run options: one container, and all that surrounds it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torchx.specs import AppDef, Role

from cclm.launch_contract import MAX_ATTEMPTS, METRICS_PORT
from k8s.launch_command import is_launch
from k8s.names import APP_LABEL, JOB_LABEL, MANAGED_BY, MANAGED_BY_LABEL, PART_OF_LABEL, label_value
from k8s.placement import affinity, node_selector, tolerations
from k8s.quantities import MEGABYTE, in_mebibytes
from k8s.resources import EFA, GPU
from k8s.settings import JobSettings
from k8s.storage import Storage, shared_memory_of, storage_of

Manifest = dict[str, Any]

HUGE_PAGES = "hugepages-2Mi"
REPLICA_ID = "TORCHX_REPLICA_ID"
RANK0_HOST = "TORCHX_RANK0_HOST"
NAMESPACE = "CCLM_NAMESPACE"
"""Variable of each pod: the namespace of its job."""
JOB_HANDLE = "TORCHX_JOB_ID"
"""Variable that TorchX gives each replica: the handle of the job."""

_REPLICA_MARK = "\0"
"""Stands for the replica's number until the text around it is escaped."""


def devices_of(role: Role, settings: JobSettings) -> dict[str, int]:
    """GPUs and other devices of a pod, by the names of their device plugins. Those of which there are none are left
    out."""
    found = {GPU: role.resource.gpu, **role.resource.devices}
    if settings.efa is not None:
        found[EFA] = settings.efa
    found |= {name: int(count) for name, count in settings.devices.items()}
    return {name: count for name, count in found.items() if count > 0}


def labels(app: AppDef, settings: JobSettings, name: str) -> dict[str, str]:
    """Labels of the job and its pods."""
    (role,) = app.roles
    ours = {
        "app.kubernetes.io/name": label_value(app.name),
        JOB_LABEL: name,
        MANAGED_BY_LABEL: MANAGED_BY,
        APP_LABEL: label_value(app.name),
        "torchx.pytorch.org/role-name": label_value(role.name),
    }
    if is_launch(role):
        ours[PART_OF_LABEL] = "cclm"
    return {**settings.labels, **ours}


def pod_annotations(settings: JobSettings) -> dict[str, str]:
    """Annotations of the pods: no one may move a pod only to save a node, and no proxy sits beside training."""
    found = {
        "sidecar.istio.io/inject": "false",
        "karpenter.sh/do-not-disrupt": "true",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    }
    if settings.kueue_required_topology:
        found["kueue.x-k8s.io/podset-required-topology"] = settings.kueue_required_topology
    if settings.kueue_preferred_topology:
        found["kueue.x-k8s.io/podset-preferred-topology"] = settings.kueue_preferred_topology
    return {**found, **settings.annotations}


def pod_spec(app: AppDef, settings: JobSettings, name: str, rank0_host: str, replica_label: str) -> Manifest:
    """The pod's spec, with one container named `pytorch`.

    Args:
        name: of the job.
        rank0_host: host name of the job's first pod.
        replica_label: the label that holds the pod's number.

    Raises:
        UserError: a run option or a mount that cannot be used.
    """
    (role,) = app.roles
    storage = storage_of(role, settings)
    spec: Manifest = {
        "terminationGracePeriodSeconds": settings.grace_seconds,
        "enableServiceLinks": False,
        "automountServiceAccountToken": settings.service_account_token,
        "tolerations": tolerations(devices_of(role, settings), settings),
        "containers": [_container(role, settings, name, storage, rank0_host, replica_label)],
        "volumes": storage.volumes,
    }
    optional: Manifest = {
        "securityContext": _pod_security(settings, storage),
        "nodeSelector": node_selector(role.resource, settings),
        "affinity": affinity(name, role.num_replicas, settings),
        "serviceAccountName": settings.service_account,
        "imagePullSecrets": [{"name": secret} for secret in settings.image_pull_secrets],
        "priorityClassName": settings.priority_class,
        "schedulerName": settings.scheduler_name,
    }
    if settings.host_network:
        optional |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    return {**spec, **{key: value for key, value in optional.items() if value}}


def _container(
    role: Role, settings: JobSettings, name: str, storage: Storage, rank0_host: str, replica_label: str
) -> Manifest:
    substitute = _substitution(name)
    container: Manifest = {
        "name": "pytorch",
        "image": role.image,
        "command": [substitute(role.entrypoint)],
        "args": [substitute(word) for word in role.args],
        "env": _environment(role, settings, substitute, rank0_host, replica_label),
        "resources": {"limits": _limits(role, settings, storage)},
        "volumeMounts": storage.mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    sources = [{"configMapRef": {"name": one}} for one in settings.config_maps]
    sources += [{"secretRef": {"name": one}} for one in settings.secrets]
    ports = [{"name": key.replace("_", "-").lower(), "containerPort": port} for key, port in role.port_map.items()]
    if settings.metrics_port and is_launch(role):
        ports.append({"name": "metrics", "containerPort": settings.metrics_port})
    optional: Manifest = {
        "envFrom": sources,
        "ports": ports,
        "imagePullPolicy": settings.image_pull_policy,
        "securityContext": _container_security(settings, storage),
    }
    return {**container, **{key: value for key, value in optional.items() if value}}


def _substitution(name: str) -> Callable[[str], str]:
    """What replaces TorchX's macros in a text, and keeps Kubernetes from replacing anything else in it.

    Kubernetes replaces $(NAME) by a variable's value, and $$ by $. Here only the replica's number shall be replaced so.
    """
    from torchx.specs import macros

    values = macros.Values(img_root="", app_id=name, replica_id=_REPLICA_MARK, rank0_env=RANK0_HOST)

    def substitute(text: str) -> str:
        escaped = re.sub(r"\$(?=[$(])", "$$", values.substitute(text))
        return escaped.replace(_REPLICA_MARK, f"$({REPLICA_ID})")

    return substitute


def _environment(
    role: Role, settings: JobSettings, substitute: Callable[[str], str], rank0_host: str, replica_label: str
) -> list[Manifest]:
    """Variables of the container. Those of the role come before our defaults, which they replace."""
    defaults = {}
    if is_launch(role):
        if settings.metrics_port:
            defaults[METRICS_PORT] = str(settings.metrics_port)
        if settings.max_attempts is not None:
            defaults[MAX_ATTEMPTS] = str(settings.max_attempts)
    if EFA in devices_of(role, settings):
        # Without this, NCCL falls back to TCP in silence where the provider cannot be loaded.
        defaults |= {"FI_PROVIDER": "efa", "FI_EFA_USE_DEVICE_RDMA": "1", "NCCL_SOCKET_IFNAME": "^lo,docker,veth"}
        if settings.hugepages is None:
            # A pod that has asked for no huge pages dies of SIGBUS when it touches one.
            defaults["FI_EFA_USE_HUGE_PAGE"] = "0"
    given = {key: substitute(value) for key, value in role.env.items()}
    if JOB_HANDLE in given:  # TorchX knows the name of the job alone; commands such as torchx status need both
        scheduler, _, job = given[JOB_HANDLE].rpartition("/")
        given[JOB_HANDLE] = f"{scheduler}/$({NAMESPACE}):{job}"
    texts = {RANK0_HOST: rank0_host, **{key: value for key, value in defaults.items() if key not in given}, **given}
    field = {"fieldRef": {"fieldPath": f"metadata.labels['{replica_label}']"}}
    return [
        {"name": REPLICA_ID, "valueFrom": field},
        {"name": NAMESPACE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        *({"name": key, "value": value} for key, value in texts.items()),
        *(
            {
                "name": variable,
                "valueFrom": {"secretKeyRef": dict(zip(("name", "key"), source.split("/"), strict=True))},
            }
            for variable, source in settings.secret_env.items()
        ),
    ]


def _limits(role: Role, settings: JobSettings, storage: Storage) -> Manifest:
    """What the pod gets. Requests are the same, as Kubernetes makes them where none are given."""
    limits: Manifest = {}
    if role.resource.cpu > 0:
        limits["cpu"] = str(role.resource.cpu)
    if role.resource.memMB > 0:
        # What is written to /dev/shm counts against the limit.
        shared = shared_memory_of(role, settings) if any(one["name"] == "dshm" for one in storage.volumes) else 0
        limits["memory"] = in_mebibytes(role.resource.memMB * MEGABYTE + shared)
    limits |= {device: str(count) for device, count in devices_of(role, settings).items()}
    if settings.hugepages:
        limits[HUGE_PAGES] = settings.hugepages
    if settings.ephemeral_storage:
        limits["ephemeral-storage"] = settings.ephemeral_storage
    return limits


def _pod_security(settings: JobSettings, storage: Storage) -> Manifest:
    found: Manifest = {}
    if settings.restricted:
        found |= {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if settings.run_as_user is not None:
        found["runAsUser"] = settings.run_as_user
    if settings.run_as_group is not None:
        found["runAsGroup"] = settings.run_as_group
    if storage.has_claims and settings.fs_group >= 0:
        # On mismatch only: a folder of millions of files takes hours to change.
        found |= {"fsGroup": settings.fs_group, "fsGroupChangePolicy": "OnRootMismatch"}
    return found


def _container_security(settings: JobSettings, storage: Storage) -> Manifest:
    if storage.has_devices:
        return {"privileged": True}
    capabilities: Manifest = {"drop": ["ALL"]} if settings.restricted else {}
    if settings.ipc_lock:
        capabilities["add"] = ["IPC_LOCK"]
    found: Manifest = {"capabilities": capabilities} if capabilities else {}
    if settings.restricted:
        found |= {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
    return found
