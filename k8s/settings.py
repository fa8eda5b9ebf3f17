"""All run options of the scheduler `kubernetes`: `torchx run -s kubernetes -cfg NAME=VALUE,NAME=VALUE ...`.

`JobSettings` is the one table of them. TorchX's own table, the reading of what was given, and docs/run-options.md
(`python -m k8s.settings`) are made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from k8s.options import option, options_of, read, torchx_options

if TYPE_CHECKING:
    from torchx.specs import runopts

AS_WANTED = ("none", "preferred", "required")


@dataclass(frozen=True)
class JobSettings:
    """How a run becomes a job of a cluster. The defaults work where only the training operator is installed."""

    # Where the job lives.
    context: str | None = option(
        None,
        "context of the kubeconfig; unset: its current one. Written into .torchxconfig, it also holds for status, log "
        "and the other commands",
    )
    namespace: str | None = option(None, "namespace of the job; unset: the one of kubeconfig's context")
    backend: str = option(
        "pytorchjob",
        "kind of the job: PyTorchJob, which grows and shrinks, or TrainJob (Trainer 2.2 and newer), of fixed size only",
        ("pytorchjob", "trainjob"),
    )
    runtime: str = option("torch-distributed", "backend=trainjob: the ClusterTrainingRuntime that it refers to")
    labels: Mapping[str, str] = option({}, "labels on the job and its pods")
    annotations: Mapping[str, str] = option({}, "annotations on the job and its pods")

    overlay: str | None = option(
        None,
        "YAML file with metadata and spec of a pod, for what no option has; it is merged into the pod, lists by the "
        "name of their items (the container is pytorch), and null takes a key away",
    )

    # Queue and priority.
    queue: str | None = option(
        None, "Kueue's LocalQueue; the job waits there until there is quota for all its nodes, and cannot be resized"
    )
    kueue_priority: str | None = option(None, "Kueue's WorkloadPriorityClass: who comes first in the queue")
    kueue_required_topology: str | None = option(
        None, "label of a Kueue topology level; all pods are placed in one such domain, or wait"
    )
    kueue_preferred_topology: str | None = option(
        None, "label of a Kueue topology level; the pods are placed in as few such domains as can be"
    )
    priority_class: str | None = option(None, "PriorityClass of the pods: who is placed first, and who is pre-empted")
    scheduler_name: str | None = option(None, "scheduler that places the pods, such as volcano")
    gang: bool = option(
        True, "tell a gang scheduler, if the operator runs with one, to start no pod before min nodes have room"
    )
    gang_queue: str | None = option(None, "queue of the gang scheduler (Volcano)")
    gang_timeout: int | None = option(None, "seconds after which the gang scheduler gives a waiting job up")

    # On which nodes.
    capacity: str = option(
        "any", "which nodes: spot ones only, on-demand ones only, or any", ("any", "spot", "on-demand")
    )
    tolerations: tuple[str, ...] = option(
        (), "taints that are tolerated, each KEY, KEY:EFFECT, KEY:VALUE or KEY:VALUE:EFFECT"
    )
    node_selectors: Mapping[str, str] = option({}, "labels that a node must have")
    affinity: str | None = option(None, "YAML file with an affinity (nodeAffinity, podAffinity, podAntiAffinity)")
    spread_hosts: str = option("preferred", "whether the pods of a run are put on different nodes", AS_WANTED)
    same_zone: str = option("preferred", "whether all pods of a run are put in one zone", AS_WANTED)

    # What happens at faults.
    lost_node_seconds: int = option(
        30, "seconds after which pods leave a node that does not answer or is not ready (Kubernetes: 300)"
    )
    grace_seconds: int = option(
        60, "seconds that a pod gets to save and leave; more than cclm launch's --shutdown-timeout"
    )
    restart_pods: bool = option(True, "whether a pod that ends may be replaced; false: the first end fails the job")
    max_attempts: int | None = option(
        None,
        "starts in a row without a newer checkpoint before the run fails for good; unset: cclm launch's own number",
    )
    deadline_seconds: int | None = option(None, "seconds after which the job is stopped, whatever it does")
    join_timeout: int = option(1800, "seconds that pods wait at the rendezvous until min nodes are there")
    last_call_timeout: int = option(15, "seconds that pods wait at the rendezvous for nodes beyond min")

    # Identity and rights.
    service_account: str | None = option(None, "service account of the pods")
    service_account_token: bool = option(False, "whether pods get a token for the cluster's API; runs need none")
    image_pull_secrets: tuple[str, ...] = option((), "secrets with credentials of the image's registry")
    image_pull_policy: str | None = option(None, "when the image is pulled", ("Always", "IfNotPresent", "Never"))
    restricted: bool = option(
        True, "whether pods keep to PodSecurity restricted: no root, no capabilities, root file system read-only"
    )
    run_as_user: int | None = option(None, "user id of the processes; unset: the image's own")
    run_as_group: int | None = option(None, "group id of the processes; unset: the image's own")
    fs_group: int = option(10001, "group that may write to mounted volume claims; -1: as the storage says")
    ipc_lock: bool = option(False, "capability IPC_LOCK, for RDMA where the node limits locked memory")

    # Configuration and storage.
    secrets: tuple[str, ...] = option((), "secrets whose keys become environment variables")
    secret_env: Mapping[str, str] = option({}, "environment variables from secrets, each VARIABLE:SECRET/KEY")
    config_maps: tuple[str, ...] = option((), "config maps whose keys become environment variables")
    volumes: tuple[str, ...] = option(
        (),
        "what is mounted, each KIND/NAME:PATH or KIND/NAME:PATH:ro, with KIND pvc, secret or configmap; "
        "emptydir/SIZE:PATH is scratch space",
    )
    shm_size: str = option(
        "auto", "size of /dev/shm, added to the memory limit; auto: 8Gi for each GPU, 512Mi without GPUs"
    )
    tmp_size: str = option("10Gi", "size of /tmp, which is on the node's disk")
    ephemeral_storage: str | None = option(None, "disk that is reserved on the node")

    # Network and devices.
    efa: int | None = option(None, "EFA devices of each pod; unset: what the named resource says")
    devices: Mapping[str, str] = option({}, "further devices of each pod, as rdma/hca:1")
    hugepages: str | None = option(
        None, "huge pages (of 2Mi) of each pod, as 5120Mi for EFA where nodes have them; Karpenter knows no such nodes"
    )
    host_network: bool = option(False, "whether pods use the node's network")
    metrics_port: int = option(9400, "port of the metrics of each pod; 0: none")

    @classmethod
    def from_config(cls, cfg: Mapping[str, Any]) -> JobSettings:
        """Settings from TorchX's run configuration. What is missing or None takes its default.

        Raises:
            UserError: an option that does not exist, or a value that cannot be used; one sentence.
        """
        return cls(**read(options_of(cls), cfg))


def run_options() -> runopts:
    """The same table as TorchX takes it; `torchx runopts kubernetes` prints it.

    Its `cfg_from_str`, which reads `-cfg`, raises UserError for what cannot be used.
    """
    return torchx_options(options_of(JobSettings))
