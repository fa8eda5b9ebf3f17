"""The chart of a run as helm renders it: the same job as TorchX's, with all that is beside it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from torchx.runner import get_runner
from torchx.specs import AppDef

import torchx_components
from k8s.options import of_torchx
from k8s.settings import JobSettings
from tests.cluster.charts import HELMS, RUN, given, refusal, rendered, template
from tests.cluster.common import PROJECT
from tests.unit.k8s.option_values import combinations

pytestmark = pytest.mark.cluster

FEATURES = sorted((RUN / "ci").glob("*-values.yaml"))
RELEASE = "mine"
CONFIG = "/opt/cclm/configs/Pretrain_4m.yaml"
VOLUMES = [
    {"claim": "data", "path": "/data", "readOnly": True},
    {"secret": "krb", "path": "/etc/krb", "readOnly": True},
    {"configMap": "hadoop", "path": "/etc/hadoop"},
    {"emptyDir": "1Gi", "path": "/cache"},
]
TOLERATIONS = [
    {"key": "a", "operator": "Exists"},
    {"key": "b", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "c", "operator": "Equal", "value": "d"},
    {"key": "e", "operator": "Equal", "value": "f", "effect": "NoExecute"},
]
"""VOLUMES and TOLERATIONS are those of tests/unit/k8s/option_values.py in the chart's words."""
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": "a", "operator": "Exists"}]},
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]},
            ]
        }
    },
    "podAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "podAffinityTerm": {"labelSelector": {}, "topologyKey": "rack"}}
        ]
    },
}
CHART_KEYS = {
    "labels": "labels", "annotations": "annotations", "queue": "queue.name", "kueue_priority": "queue.priority",
    "kueue_required_topology": "queue.requiredTopology", "kueue_preferred_topology": "queue.preferredTopology",
    "priority_class": "priorityClass.name", "scheduler_name": "scheduling.schedulerName", "gang": "scheduling.gang",
    "gang_queue": "scheduling.gangQueue", "gang_timeout": "scheduling.gangTimeout",
    "capacity": "scheduling.capacity", "tolerations": "scheduling.tolerations",
    "node_selectors": "scheduling.nodeSelector", "affinity": "scheduling.affinity",
    "spread_hosts": "scheduling.spreadHosts", "same_zone": "scheduling.sameZone",
    "lost_node_seconds": "faults.lostNodeSeconds", "grace_seconds": "faults.graceSeconds",
    "restart_pods": "faults.restartPods", "max_attempts": "faults.maxAttempts",
    "deadline_seconds": "faults.deadlineSeconds", "join_timeout": "faults.joinTimeout",
    "last_call_timeout": "faults.lastCallTimeout", "service_account": "serviceAccount.name",
    "service_account_token": "serviceAccount.token", "image_pull_secrets": "image.pullSecrets",
    "image_pull_policy": "image.pullPolicy", "restricted": "security.restricted",
    "run_as_user": "security.runAsUser", "run_as_group": "security.runAsGroup", "fs_group": "security.fsGroup",
    "ipc_lock": "security.ipcLock", "secrets": "secrets", "secret_env": "secretEnv", "config_maps": "configMaps",
    "volumes": "volumes", "shm_size": "nodes.shmSize", "tmp_size": "nodes.tmpSize",
    "ephemeral_storage": "nodes.ephemeralStorage", "efa": "nodes.efa", "devices": "nodes.devices",
    "hugepages": "nodes.hugepages", "host_network": "network.hostNetwork", "metrics_port": "network.metricsPort",
}  # fmt: skip
"""Run option of TorchX -> value of the chart."""
WITHOUT_VALUE = {"context", "namespace", "backend", "runtime", "overlay"}
"""helm itself has the first two. The chart makes PyTorchJobs, whose pods helm's own means change."""


def values_of(settings: JobSettings) -> dict[str, Any]:
    """Run options in the chart's words, those that are not the default."""
    special = {
        "volumes": VOLUMES,
        "tolerations": TOLERATIONS,
        "affinity": AFFINITY,
        "devices": {name: int(count) for name, count in settings.devices.items()},
        "secret_env": {
            name: dict(zip(("secret", "key"), source.split("/"), strict=True))
            for name, source in settings.secret_env.items()
        },
    }
    plain = JobSettings()
    changed = {name: getattr(settings, name) for name in CHART_KEYS if getattr(settings, name) != getattr(plain, name)}
    return {CHART_KEYS[name]: special.get(name, value) for name, value in changed.items()}


def of_kind(objects: list[Any], kind: str) -> Any:
    (found,) = (one for one in objects if one["kind"] == kind)
    return found


def submitted(app: AppDef, settings: JobSettings, name: str) -> Any:
    """The job that `torchx run` would submit, under another name."""
    settings = dataclasses.replace(
        settings, namespace="default", labels={**settings.labels, "cclm.dev/release": RELEASE}
    )
    cfg = {
        field.name: of_torchx(value)
        for field in dataclasses.fields(settings)
        if (value := getattr(settings, field.name)) is not None
    }
    with get_runner() as runner:
        request = runner.dryrun(app, "kubernetes", cfg).request
    return yaml.safe_load(str(request).replace(request.manifest["metadata"]["name"], name))


def test_every_run_option_has_a_value() -> None:
    assert {field.name for field in dataclasses.fields(JobSettings)} == CHART_KEYS.keys() | WITHOUT_VALUE


NODES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one": ({}, {}),
    "p4d": ({"h": "a100x8_p4d", "j": "1:2x8"}, {"nodes.machine": "a100x8_p4d", "nodes.min": 1, "nodes.max": 2}),
    "gpus": (
        {"j": "3x1", "gpu": 2, "cpu": 4, "memMB": 10_000},
        {"nodes.max": 3, "nodes.processes": 1, "nodes.gpu": 2, "nodes.cpu": 4, "nodes.memoryMB": 10_000},
    ),
}
"""Nodes of a run -> arguments of the component, and values of the chart."""


def test_the_job_is_the_one_that_torchx_submits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all run options, in combinations in which each two values meet."""
    monkeypatch.chdir(tmp_path)  # where no config is that the dry run would look into
    file = tmp_path / "affinity.yaml"
    file.write_text(yaml.safe_dump(AFFINITY))
    changes = {"affinity": [str(file)], "context": [], "runtime": []}
    cases = combinations(list(NODES), changes, JobSettings())
    assert len(cases) > 5
    for number, (nodes, settings) in enumerate(cases):
        arguments, values = NODES[nodes]
        app = torchx_components.pretrain(
            "training.max_steps=9", "a.b=[1, 'x']", config=CONFIG, image="r/cclm:1", output="s3://b/run", seed=3,
            checkpoint="s3://b/old", env={"A": "1", "NCCL_SOCKET_IFNAME": "eth0"}, max_restarts=number % 3,
            preflight=number % 2 == 0, **arguments,
        )  # fmt: skip
        values = {
            **values, **values_of(settings), "configFile": CONFIG, "image.repository": "r/cclm", "image.tag": "1",
            "output.url": "s3://b/run", "seed": 3, "checkpoint": "s3://b/old", "maxRestarts": number % 3,
            "overrides": ["training.max_steps=9", "a.b=[1, 'x']"], "preflight": number % 2 == 0,
            "env": {"A": "1", "NCCL_SOCKET_IFNAME": "eth0"},
        }  # fmt: skip
        job = of_kind(rendered(RUN, RELEASE, *given(values)), "PyTorchJob")
        assert job == submitted(app, settings, job["metadata"]["name"]), values


@pytest.mark.parametrize("program", HELMS)
def test_the_default_run_is_the_demo_world(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    objects = rendered(RUN, RELEASE, program=program)
    job = of_kind(objects, "PyTorchJob")
    name = job["metadata"]["name"]
    pod = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    drawing = {"containers": [{"name": "pytorch", "workingDir": "/demo"}], "initContainers": pod["initContainers"]}
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"spec": drawing}))
    volumes = (f"configmap/{name}:/etc/cclm:ro", "emptydir/100Gi:/output", "emptydir/10Gi:/demo")
    settings = JobSettings(volumes=volumes, overlay=str(overlay))
    assert job == submitted(torchx_components.pretrain(config="/etc/cclm/run.yaml", output="/output"), settings, name)
    (container,) = pod["initContainers"]
    assert container["command"] == ["cclm", "demo", "demo_world"]
    assert container["securityContext"] == pod["containers"][0]["securityContext"]
    config = of_kind(objects, "ConfigMap")
    assert config["immutable"] and config["metadata"]["name"] == name
    base = yaml.safe_load(config["data"]["run.yaml"])["base"]
    assert (PROJECT / base.removeprefix("/opt/cclm/")).is_file()


def test_claims_and_a_store_of_machines_of_gke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config of the values, an output in two places, and a machine with an accelerator's label."""
    monkeypatch.chdir(tmp_path)
    values = {
        "config": {"data": {"images": {"batch_size": 64}}}, "output.url": "gs://b/run", "output.claim.create": True,
        "nodes.machine": "a100x4_a2highgpu", "nodes.max": 2, "resume": "never",
    }  # fmt: skip
    objects = rendered(RUN, RELEASE, *given(values))
    job = of_kind(objects, "PyTorchJob")
    name = job["metadata"]["name"]
    app = torchx_components.pretrain(
        config="/etc/cclm/run.yaml", output="/output", output_hdfs="gs://b/run", h="a100x4_a2highgpu", j="2x4",
        resume="never",
    )  # fmt: skip
    settings = JobSettings(volumes=(f"configmap/{name}:/etc/cclm:ro", f"pvc/{RELEASE}-output:/output"))
    assert job == submitted(app, settings, name)
    claim = of_kind(objects, "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_a_run_that_changes_is_another_job_with_another_config() -> None:
    def names(**values: Any) -> set[str]:
        found = rendered(RUN, RELEASE, *given(values))
        return {one["metadata"]["name"] for one in found if one["kind"] in ("PyTorchJob", "ConfigMap")}

    (first,) = names()
    assert names() == {first}
    assert names(**{"monitoring.podMonitor.enabled": True}) == {first}
    for change in ({"seed": 1}, {"config": {"seed": 1}}, {"image.tag": "2"}, {"onUpgrade": "replace", "resume": "x"}):
        assert len(names(**change)) == 1
        assert first not in names(**change)


@pytest.mark.parametrize("file", FEATURES, ids=lambda file: file.stem)
def test_both_helms_render_the_same(file: Path) -> None:
    texts = [template(RUN, RELEASE, "--values", file, program=program) for program in HELMS]
    assert yaml.safe_load_all(texts[0]) is not None
    first, second = (sorted(map(str, filter(None, yaml.safe_load_all(text)))) for text in texts)
    assert first == second


def test_the_controller_of_dead_nodes_is_the_one_of_the_manifest() -> None:
    manifest = (PROJECT / "k8s" / "dead_nodes.yaml").read_text().replace("REGISTRY/cclm:TAG", "cclm:0.1.0")
    values = {"deadNodes.enabled": True}
    ours = [one for one in rendered(RUN, RELEASE, *given(values)) if "dead-nodes" in one["metadata"]["name"]]
    theirs = [one for one in yaml.safe_load_all(manifest) if one["kind"] != "Namespace"]
    assert len(ours) == len(theirs) == 4

    def bare(one: Any) -> Any:
        text = yaml.safe_dump({key: value for key, value in one.items() if key != "metadata"})
        for name in (f"default-{RELEASE}-dead-nodes", f"{RELEASE}-dead-nodes"):
            text = text.replace(name, "cclm-dead-nodes")
        return yaml.safe_load(text.replace("cclm-system", "default"))

    key = str
    assert sorted(map(bare, ours), key=key) == sorted(map(bare, theirs), key=key)


CRDS = ("--api-versions", "v1/Pod", "--api-versions", "kubeflow.org/v1/PyTorchJob")
GKE, P4D = {"nodes.machine": "a100x8_a2highgpu"}, {"nodes.machine": "a100x8_p4d"}
ROLE = {"serviceAccount.create": True, "serviceAccount.annotations": {"eks.amazonaws.com/role-arn": "arn:x"}}
KEY = {"secret": "aws", "key": "id"}


@pytest.mark.parametrize("program", HELMS)
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"nodez": 1}, "'nodez' not allowed"),
        ({"nodes.mx": 1}, "'mx' not allowed"),
        ({"nodes.max": "two"}, "got string, want integer"),
        ({"nodes.max": 0}, "/nodes/max"),
        ({"nodes.min": 3, "nodes.max": 2}, "nodes.min: 3 is more than nodes.max, which is 2"),
        ({"nodes.machine": "a100"}, "nodes.machine: a100 is not known; known are a100x1_a2highgpu"),
        ({**GKE, "nodes.efa": 4}, "nodes.efa: 4, and a a2-highgpu-8g has no EFA devices; leave it out"),
        ({**P4D, "nodes.efa": 5}, "nodes.efa: 5, and a p4d.24xlarge has 4 EFA devices"),
        ({**P4D, "nodes.processes": 9}, "nodes.processes: 9 processes on a node of 8 GPUs"),
        ({"config": {"a": 1}, "configFile": "/x"}, "config and configFile: give one of them"),
        ({"nodes.max": 2}, "nodes.max: several nodes need an output that all of them reach"),
        ({"output.claim.create": True, "output.claim.existing": "x"}, "output.claim.create and output.claim.existing"),
        ({"volumes": [{"path": "/x"}]}, "/volumes/0"),
        ({"volumes": [{"claim": "a", "secret": "b", "path": "/x"}]}, "/volumes/0"),
        ({"volumes": [{"claim": "a", "path": "/output"}]}, "two things are mounted at /output"),
        ({"env": {"A": "1"}, "secretEnv": {"A": KEY}}, "A is in env and in secretEnv; give it once"),
        ({"secrets": ["aws"], "secretEnv": {"A": KEY}}, "secretEnv.A: all keys of the secret aws come by secrets"),
        ({**ROLE, "secretEnv": {"AWS_ACCESS_KEY_ID": KEY}}, "secretEnv.AWS_ACCESS_KEY_ID: the service account has a"),
        ({"serviceAccount.annotations": {"a": "b"}}, "serviceAccount.annotations: an existing service account"),
        ({"env": {"AWS_SECRET_ACCESS_KEY": "x"}}, "env: AWS_SECRET_ACCESS_KEY is a secret"),
        ({"env": {"WORLD_SIZE": "2"}}, "env: WORLD_SIZE is set by the training operator"),
        ({"env": {"A": 1}}, "got number, want string"),
        ({"faults.graceSeconds": 30}, "faults.graceSeconds: 30 does not exceed the 30 s"),
        ({"queue.priority": "high"}, "queue.name: queue.priority and the topologies are Kueue's; name the queue"),
        ({"security.ipcLock": True}, "security.restricted excludes security.ipcLock"),
        ({"labels": {"cclm.dev/release": "x"}}, "labels: cclm.dev/release is set by the chart"),
        ({"rbac.create": True}, "rbac.subjects: say who gets the Role"),
        (
            {"config": {"data": {"texts": {"batch_size": 100}}}, "nodes.processes": 8},
            "data.texts.batch_size: a batch of 100 cannot be shared by 8 processes (1 nodes with 8 each)",
        ),
        (
            {"output.url": "s3://b/r", "nodes.min": 2, "nodes.max": 3},
            "a batch of 64 cannot be shared by 3 processes (3 nodes with 1 each); make it a multiple of 3",
        ),
        (
            {"configFile": "/x", "overrides": ["data.images.batch_size=10"], "nodes.processes": 4},
            "data.images.batch_size: a batch of 10 cannot be shared by 4 processes",
        ),
        ({"monitoring.podMonitor.enabled": True}, "this cluster has no PodMonitor; install the Prometheus Operator"),
        ({"monitoring.alerts.enabled": True}, "this cluster has no PrometheusRule; install the Prometheus Operator"),
        ({"queue.name": "q"}, "queue.name: this cluster has no Kueue"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_is_refused(program: str, values: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(RUN, RELEASE, *CRDS, *given(values), program=program)


@pytest.mark.parametrize("program", HELMS)
def test_the_cluster_and_the_name_must_do(program: str) -> None:
    assert "this cluster has no PyTorchJob" in refusal(RUN, RELEASE, "--api-versions", "v1/Pod", program=program)
    off = given({"network.metricsPort": 0, "monitoring.podMonitor.enabled": True})
    assert "so there is nothing to scrape" in refusal(RUN, RELEASE, *off, program=program)
    assert "release 1st: pods are named after it" in refusal(RUN, "1st", program=program)
    assert rendered(RUN, "r" * 53, *CRDS, program=program)


def test_batches_of_the_demo_are_those_of_its_config() -> None:
    """The chart cannot read that file, which is in the image."""
    sources = yaml.safe_load((PROJECT / "configs" / "demo" / "pretrain.yaml").read_text())["data"]
    sizes = [
        f'"data.{kind}.{key}" {source[key]}'
        for kind, source in sources.items()
        for key in ("batch_size", "max_images")
        if key in source
    ]
    checks = (RUN / "templates" / "_check.tpl").read_text()
    assert f"$sizes = dict {' '.join(sizes)} -}}}}" in checks


ALERTS = RUN / "files" / "alerts.yaml"


def test_alerts_can_be_left_out_and_their_runbooks_lie_elsewhere() -> None:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    on = {"monitoring.alerts.enabled": True}
    [rules] = [one for one in rendered(RUN, RELEASE, *given(on)) if one["kind"] == "PrometheusRule"]
    assert rules["spec"]["groups"] == groups

    without = [rule["alert"] for rule in groups[-1]["rules"]] + ["CclmNoProgress"]
    changed = on | {"monitoring.alerts.without": without, "monitoring.alerts.runbooks": "https://docs.example.com/"}
    [rules] = [one for one in rendered(RUN, RELEASE, *given(changed)) if one["kind"] == "PrometheusRule"]
    for group in groups:
        group["rules"] = [rule for rule in group["rules"] if rule.get("alert") not in without]
        for rule in group["rules"]:
            if "alert" in rule:
                rule["annotations"]["runbook_url"] = f"https://docs.example.com/{rule['annotations']['runbook_url']}"
    assert rules["spec"]["groups"] == [group for group in groups if group["rules"]]
    assert groups[-1]["rules"] == []  # a group without rules is left out, since it would be empty


def test_the_schema_knows_the_alerts() -> None:
    schema = json.loads((RUN / "values.schema.json").read_text(encoding="utf-8"))
    known = schema["properties"]["monitoring"]["properties"]["alerts"]["properties"]["without"]["items"]["enum"]
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    assert known == [rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule]
