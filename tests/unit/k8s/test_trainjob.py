"""The TrainJob of a run."""

import pytest

from cclm.errors import UserError
from k8s.jobs import build_job
from k8s.settings import JobSettings
from tests.unit.k8s.applications import EIGHT_GPUS, application

TRAINJOB = JobSettings(backend="trainjob")


def test_fields() -> None:
    settings = JobSettings(
        backend="trainjob", runtime="ours", namespace="team", queue="q", deadline_seconds=9, service_account="robot",
        image_pull_secrets=("reg",), volumes=("pvc/data:/data:ro",), node_selectors={"pool": "a"},
        kueue_required_topology="rack", secret_env={"TOKEN": "hub/token"},
    )  # fmt: skip
    job = build_job(application(resource=EIGHT_GPUS, min_replicas=2), settings, "run-x")
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "q"
    spec = job["spec"]
    assert spec["runtimeRef"]["name"] == "ours"
    assert spec["activeDeadlineSeconds"] == 9
    assert "suspend" not in spec
    trainer = spec["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"], trainer["image"]) == (2, 8, "registry/cclm:1")
    assert trainer["command"] == ["cclm"] and trainer["args"][0] == "launch"
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "8"
    variables = {one["name"]: one for one in trainer["env"]}
    assert variables["TORCHX_RANK0_HOST"]["value"] == "run-x-node-0-0.run-x"
    assert "job-completion-index" in variables["TORCHX_REPLICA_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert variables["TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "hub", "key": "token"}
    (patch,) = spec["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pods = replicated["template"]["spec"]["template"]
    assert pods["metadata"]["annotations"]["kueue.x-k8s.io/podset-required-topology"] == "rack"
    assert pods["metadata"]["labels"]["app.kubernetes.io/part-of"] == "cclm"
    pod = pods["spec"]
    assert pod["serviceAccountName"] == "robot"
    assert pod["nodeSelector"] == {"pool": "a"}
    assert pod["terminationGracePeriodSeconds"] == 60
    assert pod["securityContext"]["runAsNonRoot"]
    (container,) = pod["containers"]
    assert container["name"] == "node"
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data", "/dev/shm", "/tmp"}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert {volume["name"] for volume in pod["volumes"]} == {mount["name"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (JobSettings(backend="trainjob", secrets=("aws",)), "run option secrets: a TrainJob cannot set this"),
        (JobSettings(backend="trainjob", priority_class="high"), "run option priority_class: a TrainJob cannot"),
        (JobSettings(backend="trainjob", restart_pods=False), "the runtime says how often pods start"),
    ],
)
def test_what_a_patch_cannot_carry_out_is_refused(settings: JobSettings, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build_job(application(), settings)


def test_names_leave_room_for_longer_pod_names() -> None:
    build_job(application(name="a" * 42), TRAINJOB)
    with pytest.raises(UserError, match="too long .* 42 characters at most"):
        build_job(application(name="a" * 43), TRAINJOB)
