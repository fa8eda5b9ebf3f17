"""The PyTorchJob of a run, field by field."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from torchx.specs import BindMount, DeviceMount, Resource, VolumeMount

from cclm.errors import UserError
from k8s.manifest import pytorchjob
from k8s.settings import JobSettings
from tests.unit.k8s.applications import EIGHT_GPUS, application

DEFAULTS = JobSettings()


def template_of(job: dict[str, Any]) -> dict[str, Any]:
    return dict(job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"])


def pod_of(settings: JobSettings = DEFAULTS, *args: str, **role: Any) -> dict[str, Any]:
    return dict(template_of(pytorchjob(application(*args, **role), settings, "run-x"))["spec"])


def container_of(settings: JobSettings = DEFAULTS, *args: str, **role: Any) -> dict[str, Any]:
    (container,) = pod_of(settings, *args, **role)["containers"]
    return dict(container)


def variables_of(container: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def test_fixed_size_and_elastic() -> None:
    fixed = pytorchjob(application(num_replicas=3), DEFAULTS, "run-x")["spec"]
    assert (fixed["elasticPolicy"]["minReplicas"], fixed["elasticPolicy"]["maxReplicas"]) == (3, 3)
    elastic = pytorchjob(application(num_replicas=4, min_replicas=2), DEFAULTS, "run-x")["spec"]
    assert (elastic["elasticPolicy"]["minReplicas"], elastic["elasticPolicy"]["maxReplicas"]) == (2, 4)
    assert elastic["elasticPolicy"]["rdzvId"] == "run-x"
    assert elastic["runPolicy"] == {"cleanPodPolicy": "Running", "schedulingPolicy": {"minAvailable": 2}}
    worker = elastic["pytorchReplicaSpecs"]["Worker"]
    assert (worker["replicas"], worker["restartPolicy"]) == (4, "ExitCode")
    assert elastic["pytorchReplicaSpecs"].keys() == {"Worker"}


def test_run_policy() -> None:
    settings = JobSettings(
        restart_pods=False, deadline_seconds=60, gang_queue="q", gang_timeout=5, priority_class="high"
    )
    spec = pytorchjob(application(), settings, "run-x")["spec"]
    assert spec["runPolicy"] == {
        "cleanPodPolicy": "Running",
        "backoffLimit": 0,
        "activeDeadlineSeconds": 60,
        "schedulingPolicy": {"minAvailable": 2, "queue": "q", "scheduleTimeoutSeconds": 5, "priorityClass": "high"},
    }
    assert "schedulingPolicy" not in pytorchjob(application(), JobSettings(gang=False), "run-x")["spec"]["runPolicy"]


def test_metadata() -> None:
    settings = JobSettings(
        namespace="team", queue="q", kueue_priority="p", labels={"cost": "1"}, annotations={"note": "n"},
        kueue_required_topology="rack", kueue_preferred_topology="block",
    )  # fmt: skip
    job = pytorchjob(application(), settings, "run-x")
    assert job["metadata"]["namespace"] == "team"
    labels = job["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "q"
    assert labels["kueue.x-k8s.io/priority-class"] == "p"
    pods = template_of(job)["metadata"]
    for found in (labels, pods["labels"]):
        assert found["app.kubernetes.io/part-of"] == "cclm"
        assert found["app.kubernetes.io/managed-by"] == "torchx"
        assert found["app.kubernetes.io/instance"] == "run-x"
        assert found["torchx.pytorch.org/app-name"] == "cclm-pretrain"
        assert found["cost"] == "1"
    assert "kueue.x-k8s.io/queue-name" not in pods["labels"]
    assert pods["annotations"]["kueue.x-k8s.io/podset-required-topology"] == "rack"
    assert pods["annotations"]["kueue.x-k8s.io/podset-preferred-topology"] == "block"
    assert pods["annotations"]["note"] == job["metadata"]["annotations"]["note"] == "n"
    assert pods["annotations"]["sidecar.istio.io/inject"] == "false"
    assert pods["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
    assert "suspend" not in job["spec"]["runPolicy"]  # Kueue's webhook and its users own it


def test_without_a_namespace_none_is_named() -> None:
    assert "namespace" not in pytorchjob(application(), DEFAULTS, "run-x")["metadata"]


def test_only_runs_of_cclm_are_part_of_it() -> None:
    """Pods of others have no guard against two writers, so nobody may clear them away for being lost."""
    others = [
        ("echo", ["hello"]),
        ("echo", ["this", "cclm", "launch"]),
        ("cclm", ["data", "index", "s3://bucket/x"]),
        ("bash", ["-c", "exec torchrun -m notcclm"]),
        ("bash", ["-c", "exec cclm data index s3://bucket/x"]),
    ]
    for entrypoint, args in others:
        job = pytorchjob(application(entrypoint=entrypoint, args=args), DEFAULTS, "run-x")
        assert "app.kubernetes.io/part-of" not in job["metadata"]["labels"]
        assert "ports" not in template_of(job)["spec"]["containers"][0]
    shell = pytorchjob(application(entrypoint="bash", args=["-c", "exec cclm launch -- x"]), DEFAULTS, "run-x")
    assert shell["metadata"]["labels"]["app.kubernetes.io/part-of"] == "cclm"


def test_macros_and_dollars() -> None:
    """Kubernetes replaces $(NAME) and $$ in arguments; a shell's own must reach the shell."""
    container = container_of(
        DEFAULTS, "-c", "a ${app_id} ${replica_id} $$${rank0_env} $(date) $HOME", entrypoint="bash",
        env={"WHO": "${app_id}-${replica_id}", "PRICE": "$$$$5", "TORCHX_JOB_ID": "kubernetes://torchx/${app_id}"},
    )  # fmt: skip
    assert container["args"] == ["-c", "a run-x $(TORCHX_REPLICA_ID) $TORCHX_RANK0_HOST $$(date) $HOME"]
    variables = variables_of(container)
    assert variables["WHO"] == "run-x-$(TORCHX_REPLICA_ID)"
    assert variables["TORCHX_JOB_ID"] == "kubernetes://torchx/$(CCLM_NAMESPACE):run-x"  # which torchx status takes
    assert variables["CCLM_NAMESPACE"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}
    assert variables["PRICE"] == "$$$5"  # of which Kubernetes makes $$5
    assert variables["TORCHX_RANK0_HOST"] == "run-x-worker-0"
    path = "metadata.labels['training.kubeflow.org/replica-index']"
    assert variables["TORCHX_REPLICA_ID"] == {"fieldRef": {"fieldPath": path}}
    assert [one["name"] for one in container["env"]].index("TORCHX_REPLICA_ID") == 0  # defined before it is used


def test_environment() -> None:
    settings = JobSettings(secrets=("aws",), config_maps=("conf",), secret_env={"TOKEN": "hub/token"}, max_attempts=2)
    container = container_of(settings, env={"CCLM_METRICS_PORT": "1"})
    variables = variables_of(container)
    assert variables["TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert variables["CCLM_MAX_ATTEMPTS"] == "2"
    assert variables["CCLM_METRICS_PORT"] == "1"  # what the user says wins
    assert container["envFrom"] == [{"configMapRef": {"name": "conf"}}, {"secretRef": {"name": "aws"}}]
    assert container["ports"] == [{"name": "metrics", "containerPort": 9400}]
    assert "ports" not in container_of(JobSettings(metrics_port=0))


def test_resources_and_shared_memory() -> None:
    container = container_of(resource=EIGHT_GPUS)
    limits = container["resources"]["limits"]
    shared = 8 * 8 * 1024
    assert limits["memory"] == f"{953675 + shared}Mi"  # 1_000_000 MB, rounded up, and /dev/shm
    assert (limits["cpu"], limits["nvidia.com/gpu"], limits["vpc.amazonaws.com/efa"]) == ("88", "8", "4")
    (volume,) = (one for one in pod_of(resource=EIGHT_GPUS)["volumes"] if one["name"] == "dshm")
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": f"{shared}Mi"}
    settings = JobSettings(
        shm_size="1Gi", hugepages="5120Mi", ephemeral_storage="50Gi", efa=0, devices={"rdma/hca": "1"}
    )
    limits = container_of(settings, resource=EIGHT_GPUS)["resources"]["limits"]
    assert limits["memory"] == f"{953675 + 1024}Mi"
    assert (limits["hugepages-2Mi"], limits["ephemeral-storage"], limits["rdma/hca"]) == ("5120Mi", "50Gi", "1")
    assert "vpc.amazonaws.com/efa" not in limits


def test_nothing_is_asked_for_where_nothing_is_said() -> None:
    limits = container_of(resource=Resource(cpu=-1, gpu=-1, memMB=-1))["resources"]["limits"]
    assert limits == {}


def test_efa() -> None:
    variables = variables_of(container_of(resource=EIGHT_GPUS))
    assert (variables["FI_PROVIDER"], variables["FI_EFA_USE_HUGE_PAGE"]) == ("efa", "0")
    assert "FI_EFA_USE_HUGE_PAGE" not in variables_of(container_of(JobSettings(hugepages="1Gi"), resource=EIGHT_GPUS))
    assert "FI_PROVIDER" not in variables_of(container_of())


def test_mounts() -> None:
    mounts = [BindMount("/host", "/bound", read_only=True), VolumeMount("claim", "/claimed")]
    settings = JobSettings(volumes=("secret/s:/s:ro", "configmap/c:/c", "pvc/p:/p", "emptydir/1Gi:/e"))
    pod = pod_of(settings, mounts=mounts)
    sources = {one["name"]: one for one in pod["volumes"]}
    found = {one["mountPath"]: sources[one["name"]] | one for one in pod["containers"][0]["volumeMounts"]}
    assert found["/bound"]["hostPath"] == {"path": "/host"} and found["/bound"]["readOnly"]
    assert found["/claimed"]["persistentVolumeClaim"] == {"claimName": "claim"}
    assert found["/s"]["secret"] == {"secretName": "s"} and found["/s"]["readOnly"]
    assert found["/c"]["configMap"] == {"name": "c"}
    assert found["/p"]["persistentVolumeClaim"] == {"claimName": "p"}
    assert found["/e"]["emptyDir"] == {"sizeLimit": "1Gi"}
    assert found["/tmp"]["emptyDir"] == {"sizeLimit": "10Gi"}
    assert pod["securityContext"]["fsGroup"] == 10001
    assert "fsGroup" not in pod_of()["securityContext"]
    own = pod_of(JobSettings(volumes=("pvc/p:/tmp", "pvc/q:/dev/shm"), fs_group=-1))
    assert "emptyDir" not in str(own["volumes"])
    assert "fsGroup" not in own["securityContext"]
    # Shared memory that is not ours is not added to the limit.
    assert own["containers"][0]["resources"]["limits"]["memory"] == "954Mi"


def test_security() -> None:
    pod = pod_of()
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert pod["containers"][0]["securityContext"] == {
        "capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
    }  # fmt: skip
    assert pod["automountServiceAccountToken"] is False
    free = pod_of(JobSettings(restricted=False, run_as_user=0, run_as_group=5, service_account="robot",
                              service_account_token=True, image_pull_secrets=("reg",), ipc_lock=True))  # fmt: skip
    assert free["securityContext"] == {"runAsUser": 0, "runAsGroup": 5}
    assert free["containers"][0]["securityContext"] == {"capabilities": {"add": ["IPC_LOCK"]}}
    assert (free["serviceAccountName"], free["automountServiceAccountToken"]) == ("robot", True)
    assert free["imagePullSecrets"] == [{"name": "reg"}]
    device = pod_of(JobSettings(restricted=False), mounts=[DeviceMount("/dev/fuse", "/dev/fuse")])
    assert device["containers"][0]["securityContext"] == {"privileged": True}


def test_tolerations() -> None:
    settings = JobSettings(tolerations=("a", "b:NoExecute", "c:d", "e:f:NoSchedule"), lost_node_seconds=7)
    found = pod_of(settings, resource=EIGHT_GPUS)["tolerations"]
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in found
    assert {"key": "vpc.amazonaws.com/efa", "operator": "Exists", "effect": "NoSchedule"} in found
    assert {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"} in found
    assert {"key": "a", "operator": "Exists"} in found
    assert {"key": "b", "operator": "Exists", "effect": "NoExecute"} in found
    assert {"key": "c", "operator": "Equal", "value": "d"} in found
    assert {"key": "e", "operator": "Equal", "value": "f", "effect": "NoSchedule"} in found
    lost = [one for one in found if one.get("tolerationSeconds") == 7]
    assert {one["key"] for one in lost} == {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}
    assert not any("spot" in str(one) for one in pod_of(JobSettings(capacity="on-demand"))["tolerations"])


def test_where_pods_go(tmp_path: Path) -> None:
    file = tmp_path / "affinity.yaml"
    term = {"matchExpressions": [{"key": "k", "operator": "Exists"}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    file.write_text(yaml.safe_dump({"nodeAffinity": required}))
    settings = JobSettings(
        affinity=str(file), capacity="spot", spread_hosts="required", node_selectors={"pool": "a"}, host_network=True,
        scheduler_name="volcano", priority_class="high",
    )  # fmt: skip
    machine = Resource(cpu=1, gpu=0, memMB=1, capabilities={"node.kubernetes.io/instance-type": "p4d.24xlarge"})
    pod = pod_of(settings, resource=machine)
    assert pod["nodeSelector"] == {"node.kubernetes.io/instance-type": "p4d.24xlarge", "pool": "a"}
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert len(terms) == 4  # a cloud each
    assert all(one["matchExpressions"][0]["key"] == "k" for one in terms)
    assert pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert pod["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    assert (pod["schedulerName"], pod["priorityClassName"]) == ("volcano", "high")
    assert "affinity" not in pod_of(num_replicas=1)
    terms = pod_of(JobSettings(capacity="on-demand"))["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]  # fmt: skip
    assert [one["operator"] for one in terms[0]["matchExpressions"]] == ["NotIn"] * 4


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (JobSettings(tolerations=("a:b:c",)), "tolerations: a:b:c is not KEY"),
        (JobSettings(tolerations=(":NoSchedule",)), "tolerations: :NoSchedule is not KEY"),
        (JobSettings(tolerations=("a b",)), "tolerations: a b is not KEY"),
        (JobSettings(tolerations=("a:b c",)), "tolerations: a:b c is not KEY"),
        (JobSettings(volumes=("claim:/x",)), "volumes: claim:/x is not KIND/NAME:PATH"),
        (JobSettings(volumes=("disk/x:/x",)), "volumes: disk/x:/x is not KIND/NAME:PATH"),
        (JobSettings(volumes=("emptydir/big:/x",)), "emptydir=big: write an amount"),
        (JobSettings(volumes=("pvc/x:/x", "pvc/y:/x/")), "two things are mounted at /x"),
        (JobSettings(shm_size="much"), "shm_size=much: write an amount"),
        (JobSettings(affinity="/nowhere/a.yaml"), "affinity=/nowhere/a.yaml: cannot be read"),
    ],
)
def test_refused(settings: JobSettings, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        pod_of(settings)
    assert sentence in str(caught.value)


def test_manifest_is_plain_and_has_no_aliases() -> None:
    text = yaml.safe_dump(pytorchjob(application(num_replicas=3), DEFAULTS, "run-x"))
    assert "&id" not in text
