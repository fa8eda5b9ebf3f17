"""What k8s makes of applications, before a real API server: accepted, scheduled, and within PodSecurity restricted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from torchx.specs import AppDef, Resource, VolumeMount

import torchx_components
from k8s.jobs import build_job
from k8s.resources import EFA, GPU, MACHINES, cpu_small
from k8s.settings import JobSettings
from tests.cluster import gobuild, hardware, images, kubectl
from tests.cluster.common import wait_for
from tests.cluster.jobs import wait_condition
from tests.cluster.kubectl import Kubectl, condition
from tests.cluster.space import PUBLIC_TOOLS, Space
from tests.unit.k8s.applications import application
from tests.unit.k8s.option_values import combinations

pytestmark = pytest.mark.cluster

IMAGE = "registry.example.com/cclm:1"
OWN_CONFIG = {"config": "configs/demo/pretrain.yaml"}
COMPONENTS: dict[str, dict[str, Any]] = {
    "pretrain": {"mounts": ["type=volume", "src=claim", "dst=/runs"]},
    "itr_multi30k": {}, "itr_coco": {}, "xvnli": {"fewshot": "ar,48"}, "gqa": {}, "nlvr": {}, "nlvr_domain": {},
    "xflickrco": {}, "wit": {},
    "finetune": {"config": "configs/demo/xvnli.yaml", "checkpoint": "s3://bucket/run"},
    "evaluate": {"config": "configs/demo/xvnli.yaml", "checkpoint": "s3://bucket/run"},
}  # fmt: skip
"""Every component -> arguments beside those that all have."""


def component(name: str, j: str) -> AppDef:
    arguments = {"image": IMAGE, "j": j, "checkpoint": "s3://bucket/run", **COMPONENTS[name]}
    made: AppDef = getattr(torchx_components, name)(**arguments)
    return made


@pytest.fixture
def affinity_file(tmp_path: Path) -> str:
    term = {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a", "b"]}]}
    rule = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
    (tmp_path / "affinity.yaml").write_text(yaml.safe_dump(rule))
    return str(tmp_path / "affinity.yaml")


@pytest.fixture
def overlay_file(tmp_path: Path) -> str:
    pod = {
        "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]},
        "containers": [{"name": "pytorch", "tty": True}],
    }
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump({"spec": pod}))
    return str(tmp_path / "overlay.yaml")


@pytest.fixture
def cast(space: Space) -> Iterator[None]:
    """What pods need to be admitted: their service account and their priority."""
    space.api("create", "serviceaccount", "robot")
    urgent = f"urgent-{space.name[-6:]}"
    space.api.apply(
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": urgent}, "value": 10}
    )
    try:
        yield
    finally:
        space.api("delete", "priorityclass", urgent)


def accepted(api: Kubectl, manifests: list[Any]) -> None:
    """The API server, with all that guards it, would take these as they are. kubectl reads YAML, as users give it."""
    text = "---\n".join(yaml.safe_dump(manifest, sort_keys=False) for manifest in manifests)
    api("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text, timeout=600)


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    """The pod that an operator would make of a PyTorchJob. An operator's definition says little about pods."""
    template = json.loads(json.dumps(job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]))
    metadata = {**template["metadata"], "name": job["metadata"]["name"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {**template["spec"], "restartPolicy": "Never"},
    }


def test_every_component_with_every_pair_of_run_options_is_accepted(
    space: Space, affinity_file: str, overlay_file: str, cast: None
) -> None:
    space.need("kueue")
    changes = {"affinity": [affinity_file], "overlay": [overlay_file], "priority_class": [f"urgent-{space.name[-6:]}"]}
    rows = combinations(
        [(name, j) for name in COMPONENTS for j in ("1x2", "1:2x2", "4x2")], changes, JobSettings(namespace=space.name)
    )
    assert {name for (name, _), _ in rows} == set(COMPONENTS)
    jobs = [build_job(component(name, j), settings) for (name, j), settings in rows]
    accepted(space.api, jobs)
    accepted(space.api, [pod_of(job) for job in jobs])


def test_every_named_resource_is_accepted(space: Space) -> None:
    apps = [application(resource=resource) for resource in [*(one.resource for one in MACHINES.values()), cpu_small()]]
    jobs = [build_job(app, JobSettings(namespace=space.name)) for app in apps]
    accepted(space.api, [*jobs, *map(pod_of, jobs)])


@pytest.fixture
def runtime(space: Space) -> Iterator[str]:
    """Trainer's own runtime for PyTorch, under a name of this test."""
    space.need("trainer")
    file = gobuild.files_of("trainer") / "manifests" / "base" / "runtimes" / "torch_distributed.yaml"
    (found,) = kubectl.documents(file.read_text())
    found["metadata"]["name"] = name = f"torch-{space.name[-6:]}"
    space.api.apply(found)
    job = build_job(component("pretrain", "1x2"), JobSettings(namespace=space.name, backend="trainjob", runtime=name))

    def known() -> bool:
        """Trainer hears of a runtime a moment after the API has it."""
        done = space.api.attempt("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(job))
        assert done.returncode == 0 or "must be created before" in done.stderr, done.stderr
        return done.returncode == 0

    try:
        wait_for(known, what="Trainer's knowledge of the runtime", timeout=60)
        yield name
    finally:
        space.api("delete", "clustertrainingruntime", name)


def test_trainjobs_with_every_pair_of_run_options_are_accepted(space: Space, affinity_file: str, runtime: str) -> None:
    rows = combinations(
        [(name, j) for name in COMPONENTS for j in ("1x2", "4x2")],
        {"affinity": [affinity_file], "runtime": []},
        JobSettings(namespace=space.name, backend="trainjob", runtime=runtime),
    )
    accepted(space.api, [build_job(component(name, j), settings) for (name, j), settings in rows])


def test_a_field_that_does_not_exist_is_noticed(space: Space) -> None:
    """The tests above would mean nothing if the server took anything."""
    job = build_job(component("pretrain", "1x2"), JobSettings(namespace=space.name))
    job["spec"]["runPolicy"]["cleanPods"] = "All"
    done = space.api.attempt("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump(job))
    assert done.returncode != 0
    assert "cleanPods" in done.stderr


@pytest.fixture
def restricted(space: Space) -> Space:
    space.api("label", "namespace", space.name, "pod-security.kubernetes.io/enforce=restricted")
    return space


def tool_run(space: Space, script: str, **role: Any) -> AppDef:
    """A run of a shell script in a small image that nodes have."""
    image = images.TOOLS if space.owned else PUBLIC_TOOLS
    return application("-c", script, entrypoint="sh", image=image, resource=Resource(cpu=-1, gpu=0, memMB=64), **role)


def test_restricted_namespaces_take_the_pods(restricted: Space) -> None:
    settings = JobSettings(namespace=restricted.name, volumes=("secret/s:/s", "configmap/c:/c", "pvc/p:/p"), efa=4)
    app = component("pretrain", "1:2x2")
    app.roles[0].mounts.append(VolumeMount("claim", "/more"))
    accepted(restricted.api, [pod_of(build_job(app, settings))])
    free = pod_of(build_job(app, dataclasses.replace(settings, restricted=False)))
    done = restricted.api.attempt("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(free))
    assert done.returncode != 0
    assert 'violates PodSecurity "restricted' in done.stderr


def test_a_job_runs_in_a_restricted_namespace(restricted: Space) -> None:
    """As a user that the image knows nothing of, with a read-only root, and the variables that TorchX promises."""
    script = (
        'set -e; test "$(id -u)" = 10001; touch /tmp/a /dev/shm/a; if touch /b; then exit 1; fi; '
        'test "$1" = 0; test "$TORCHX_RANK0_HOST" = "$(hostname)"; test "$WHO" = "$2-0"; test "$$$$" = "$3"'
    )
    app = tool_run(restricted, script, num_replicas=1, env={"WHO": "${app_id}-${replica_id}"})
    app.roles[0].args += ["sh", "${replica_id}", "${app_id}", "1"]
    settings = JobSettings(namespace=restricted.name, run_as_user=10001, secrets=(), tmp_size="1Mi")
    job = build_job(app, settings)
    restricted.api.apply(job)
    name = job["metadata"]["name"]
    try:
        assert wait_condition(restricted.api, name, "Succeeded", "Failed") == "Succeeded"
    except AssertionError:
        raise AssertionError(restricted.api("logs", f"{name}-worker-0")) from None


def node_of_test(space: Space, kind: str, name: str) -> dict[str, Any]:
    """A fake node that the pods of this test select, and no others."""
    node = hardware.fake_node(kind, name)
    node["metadata"]["labels"]["test"] = space.name
    return node


def on_nodes_of_test(space: Space) -> JobSettings:
    return JobSettings(
        namespace=space.name, tolerations=("kwok.x-k8s.io/node:NoSchedule",), node_selectors={"test": space.name}
    )


@pytest.mark.usefixtures("restricted")
def test_a_trainjob_runs(space: Space, runtime: str) -> None:
    """Its pods find each other and know their numbers, in a restricted namespace."""
    script = (
        'set -e; test "$(id -u)" = 10001; if touch /b; then exit 1; fi; touch /dev/shm/a; test "$PET_NNODES" = 2; '
        'test "$TORCHX_REPLICA_ID" = "$PET_NODE_RANK"; test "$TORCHX_RANK0_HOST" = "$PET_MASTER_ADDR"'
    )
    settings = JobSettings(namespace=space.name, backend="trainjob", runtime=runtime, run_as_user=10001)
    job = build_job(tool_run(space, script, num_replicas=2), settings)
    space.api.apply(job)

    def ended(item: Any) -> str | None:
        return next((kind for kind in ("Complete", "Failed") if condition(item, kind)), None)

    assert space.api.wait("trainjob", job["metadata"]["name"], ended, what="the end of the TrainJob") == "Complete"
    for pod in space.api.get("pod"):
        assert pod["metadata"]["labels"]["app.kubernetes.io/instance"] == job["metadata"]["name"]


@pytest.fixture
def machine(request: pytest.FixtureRequest, space: Space) -> Iterator[str]:
    """Two fake nodes of a machine type, for a job of three pods; the name of the resource."""
    space.need("kwok")
    resource: str = request.param
    instance_type = MACHINES[resource].instance_type
    (kind,) = (key for key, shape in hardware.machine_types().items() if shape["instance_type"] == instance_type)
    nodes = [f"{space.name[-6:]}-{kind}-{number}" for number in range(2)]
    space.api.apply(*(node_of_test(space, kind, node) for node in nodes))
    try:
        yield resource
    finally:
        space.api("delete", "node", *nodes)


def unschedulable(item: Any) -> str:
    """What the scheduler says about a pod that has no node; empty while it says nothing."""
    if item is None or condition(item, "PodScheduled"):
        return ""
    found = [one for one in item.get("status", {}).get("conditions", []) if one["type"] == "PodScheduled"]
    return str(found[0].get("message", "")) if found else ""


@pytest.mark.parametrize("machine", MACHINES, indirect=True)
def test_full_pods_are_scheduled_and_one_more_waits(space: Space, machine: str) -> None:
    job = build_job(
        application(
            "launch",
            entrypoint="train",
            num_replicas=3,
            min_replicas=2,
            image=IMAGE,
            resource=MACHINES[machine].resource,
        ),
        on_nodes_of_test(space),
    )
    space.api.apply(job)
    pods = [f"{job['metadata']['name']}-worker-{number}" for number in range(3)]

    def placed() -> list[Any]:
        return [pod for pod in space.api.get("pod") if pod["spec"].get("nodeName")]

    waiting: list[str] = []

    def settled(_: Any) -> bool:
        waiting[:] = [text for text in map(unschedulable, space.api.get("pod")) if f"Insufficient {GPU}" in text]
        return len(placed()) == 2 and len(waiting) == 1

    space.api.wait("pytorchjob", job["metadata"]["name"], settled, what=f"two of {pods} on two nodes, and one waiting")
    found = placed()
    assert len({pod["spec"]["nodeName"] for pod in found}) == 2
    for pod in found:
        limits = pod["spec"]["containers"][0]["resources"]["limits"]
        assert limits[GPU] == str(MACHINES[machine].gpus)
        assert limits.get(EFA, "0") == str(MACHINES[machine].efa)


def test_torchx_s_own_resource_for_p4d_never_fits(space: Space) -> None:
    """Why there are named resources here: TorchX's asks for all that the machine has."""
    from torchx.specs.named_resources_aws import aws_p4d_24xlarge

    space.need("kwok")
    node = f"{space.name[-6:]}-p4d"
    space.api.apply(node_of_test(space, "p4d-24xlarge", node))
    try:
        app = application(num_replicas=1, image=IMAGE, resource=aws_p4d_24xlarge())
        job = build_job(app, on_nodes_of_test(space))
        space.api.apply(job)
        pod = f"{job['metadata']['name']}-worker-0"
        space.api.wait("pod", pod, lambda item: "Insufficient cpu" in unschedulable(item), what="the refusal")
    finally:
        space.api("delete", "node", node)
