"""The kinds of Kubernetes objects that this package reads and writes, and the labels by which it finds them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from k8s.names import APP_LABEL

Object = dict[str, Any]
"""A Kubernetes object as the API server sends it: parsed JSON."""


@dataclass(frozen=True)
class Resource:
    """A kind of object, as paths of the API server name it."""

    kind: str
    plural: str
    version: str
    group: str = ""
    """API group; empty for Kubernetes' own core objects."""
    is_namespaced: bool = True

    def path(self, namespace: str | None = None, name: str | None = None, part: str | None = None) -> str:
        """Path of an object, or of all objects of the kind where no name is given.

        Args:
            namespace: None means all namespaces, or that the kind has none.
            name: of the object.
            part: a subresource, such as `log`.
        """
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        place = f"/namespaces/{namespace}" if self.is_namespaced and namespace else ""
        return root + place + "".join(f"/{word}" for word in (self.plural, name, part) if word)

    @property
    def full_name(self) -> str:
        """As `kubectl` and messages of the API server write it: `pytorchjobs.kubeflow.org`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


PYTORCH_JOB = Resource("PyTorchJob", "pytorchjobs", "v1", "kubeflow.org")
TRAIN_JOB = Resource("TrainJob", "trainjobs", "v1alpha1", "trainer.kubeflow.org")
TRAINING_RUNTIME = Resource("TrainingRuntime", "trainingruntimes", "v1alpha1", "trainer.kubeflow.org")
CLUSTER_TRAINING_RUNTIME = Resource(
    "ClusterTrainingRuntime", "clustertrainingruntimes", "v1alpha1", "trainer.kubeflow.org", is_namespaced=False
)
WORKLOAD = Resource("Workload", "workloads", "v1beta1", "kueue.x-k8s.io")
LOCAL_QUEUE = Resource("LocalQueue", "localqueues", "v1beta1", "kueue.x-k8s.io")
WORKLOAD_PRIORITY = Resource(
    "WorkloadPriorityClass", "workloadpriorityclasses", "v1beta1", "kueue.x-k8s.io", is_namespaced=False
)
POD = Resource("Pod", "pods", "v1")
EVENT = Resource("Event", "events", "v1")
NODE = Resource("Node", "nodes", "v1", is_namespaced=False)
NAMESPACE = Resource("Namespace", "namespaces", "v1", is_namespaced=False)
SECRET = Resource("Secret", "secrets", "v1")
CONFIG_MAP = Resource("ConfigMap", "configmaps", "v1")
SERVICE_ACCOUNT = Resource("ServiceAccount", "serviceaccounts", "v1")
VOLUME_CLAIM = Resource("PersistentVolumeClaim", "persistentvolumeclaims", "v1")
PRIORITY_CLASS = Resource("PriorityClass", "priorityclasses", "v1", "scheduling.k8s.io", is_namespaced=False)

KINDS = {
    resource.kind: resource
    for resource in (PYTORCH_JOB, TRAIN_JOB, TRAINING_RUNTIME, CLUSTER_TRAINING_RUNTIME, WORKLOAD, POD, EVENT, NODE)
}
"""By the name that stands in an object's `kind`."""

OURS = APP_LABEL
"""Selects the jobs that `torchx run` made, and their pods, whatever program they run; and those of the chart
cclm-pretrain. helm puts itself into the label `managed-by` of a job that it makes."""
ROLE_NAME = "torchx.pytorch.org/role-name"
"""Label of jobs and pods: the name of the application's only role."""
JOB_NAME = "training.kubeflow.org/job-name"
"""Label that the training operator gives pods: the PyTorchJob that they belong to."""
REPLICA_INDEX = "training.kubeflow.org/replica-index"
"""Label that the training operator gives pods: which worker it is."""
JOB_SET_NAME = "jobset.sigs.k8s.io/jobset-name"
"""Label of a TrainJob's pods: the name of its JobSet, which is that of the TrainJob."""
COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
"""Label of a TrainJob's pods: which node of the job it is."""
QUEUE_NAME = "kueue.x-k8s.io/queue-name"
"""Label of a job: its LocalQueue of Kueue."""
QUEUE_PRIORITY = "kueue.x-k8s.io/priority-class"
"""Label of a job: its WorkloadPriorityClass of Kueue."""
CANCELLED = "cclm.dev/cancelled"
"""Annotation of a job that `torchx cancel` has ended: when, as RFC 3339."""

DASHBOARD = "cclm.dev/ui-url"
"""Annotation of a job: address of a page about it, which `torchx status` shows."""

OPERATOR_PODS = {
    PYTORCH_JOB.kind: "-l control-plane=kubeflow-training-operator",
    TRAIN_JOB.kind: "-l 'app.kubernetes.io/name in (trainer, kubeflow-trainer)'",
}
"""Kind of a job to the words with which `kubectl get pods -A` shows its operator. Trainer's chart and its manifests
give it different names."""

CONTAINER_OF = {PYTORCH_JOB.kind: "pytorch", TRAIN_JOB.kind: "node"}
"""Kind of a job to the name of its pods' container that trains."""


def pods_of(job: Object) -> str:
    """Label selector of a job's pods."""
    label = JOB_NAME if job["kind"] == PYTORCH_JOB.kind else JOB_SET_NAME
    return f"{label}={job['metadata']['name']}"


def job_of(pod: Object) -> str | None:
    """Name of the job that a pod belongs to, None for a pod of no job."""
    labels = pod["metadata"].get("labels") or {}
    return labels.get(JOB_NAME) or labels.get(JOB_SET_NAME)


def replica_index(pod: Object) -> int | None:
    """Which worker of its job a pod is; None for a pod of no job."""
    labels = pod["metadata"].get("labels") or {}
    index = labels.get(REPLICA_INDEX, labels.get(COMPLETION_INDEX))
    return int(index) if index is not None else None


def queue_of(job: Object) -> str | None:
    """The LocalQueue of Kueue that a job waits in, None without Kueue."""
    return (job["metadata"].get("labels") or {}).get(QUEUE_NAME)
