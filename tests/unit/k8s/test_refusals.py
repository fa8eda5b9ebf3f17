"""Bad input: one sentence each, before a cluster is asked for anything."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torchx.specs import AppDef, DeviceMount, Resource, Role

import torchx_components
from cclm.errors import UserError
from k8s.jobs import build_job
from k8s.refusals import check
from k8s.resources import MACHINES
from k8s.settings import JobSettings
from tests.unit.k8s.applications import application

CONFIG = "configs/demo/pretrain.yaml"


def refused(app: AppDef, settings: JobSettings | None = None) -> str:
    with pytest.raises(UserError) as caught:
        check(app, settings or JobSettings())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def launch(*options: str, config: str = CONFIG, **role: Any) -> AppDef:
    return application("launch", *options, "--", "pretrain", config, **role)


def test_what_is_good_passes() -> None:
    check(application(), JobSettings())
    check(torchx_components.pretrain(j="1:2x1", image="cclm:1"), JobSettings())
    check(application("hello", entrypoint="echo"), JobSettings())


def limits_of(app: AppDef) -> dict[str, str]:
    job = build_job(app, JobSettings(shm_size="1Gi"))
    pod = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    limits: dict[str, str] = pod["containers"][0]["resources"]["limits"]
    return {name: amount for name, amount in limits.items() if name != "memory"}


def test_processes_of_a_published_model_have_a_gpu_each_where_nothing_is_said() -> None:
    task = {"checkpoint": "s3://b/4m", "output_hdfs": "s3://b/x", "image": "cclm:1"}
    one_gpu = {"cpu": "8", "nvidia.com/gpu": "1"}
    assert limits_of(torchx_components.xvnli(**task)) == one_gpu
    assert limits_of(torchx_components.nlvr_domain(**task)) == one_gpu
    assert limits_of(torchx_components.pretrain(image="cclm:1", j="1:2x4")) == {"cpu": "32", "nvidia.com/gpu": "4"}
    # What is said counts, and the demo needs no GPU.
    assert limits_of(torchx_components.xvnli(**task, cpu=3)) == {"cpu": "3"}
    assert limits_of(torchx_components.xvnli(**task, config="configs/demo/xvnli.yaml")) == {"cpu": "2"}
    assert limits_of(application("hello", entrypoint="echo", resource=Resource(-1, -1, -1))) == {}


def test_number_of_roles() -> None:
    role = Role(name="trainer", image="a:1")
    other = Role(name="reader", image="a:1")
    assert "2 roles (trainer, reader)" in refused(AppDef("x", roles=[role, other]))
    assert "0 roles (none)" in refused(AppDef("x"))


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ("cclm", "image cclm has no tag"),
        ("host:5000/cclm", "host:5000/cclm has no tag"),
        ("", "has no image"),
        ("<MISSING>", "has no image"),
        ("a b:1", "has no spaces"),
        ("registry/Cclm:1", "image registry/Cclm:1 is no reference of an image: write REGISTRY/NAME:TAG"),
        ("registry//cclm:1", "is no reference of an image"),
        ("cclm:1;rm", "is no reference of an image"),
        ("cclm@sha256:123", "is no reference of an image"),
    ],
)
def test_image(image: str, sentence: str) -> None:
    assert sentence in refused(application(image=image))


@pytest.mark.parametrize(
    "image",
    [
        "a:1",
        "host:5000/a:1",
        "a@sha256:" + "0" * 64,
        "localhost/a:1",
        "1.dkr.ecr.eu-west-1.amazonaws.com/a__b/c-d.e:V.1",
        "a/b:1@sha256:" + "0" * 64,
        "[::1]:5000/a:1",
    ],
)
def test_image_with_a_tag_or_digest(image: str) -> None:
    check(application(image=image), JobSettings())


def test_sizes() -> None:
    assert "3 to 2 nodes" in refused(application(min_replicas=3))
    assert "0 to 2 nodes" in refused(application(min_replicas=0))
    sentence = refused(application(min_replicas=1), JobSettings(backend="trainjob"))
    assert "backend=trainjob has a fixed size" in sentence and "instead of 1:2" in sentence


def test_environment() -> None:
    for name in ("PET_NNODES", "MASTER_ADDR", "WORLD_SIZE", "RANK"):
        assert f"variable {name} is set by the training operator" in refused(application(env={name: "1"}))
    assert "variable 1X" in refused(application(env={"1X": "1"}))
    both = JobSettings(secret_env={"TOKEN": "a/b"})
    assert "variable TOKEN comes from" in refused(application(env={"TOKEN": "1"}), both)


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY", "DB_PASSWORD"])
def test_secrets_do_not_enter_a_manifest(name: str) -> None:
    sentence = refused(application(env={name: "hidden"}))
    assert f"secret_env={name}:SECRET/KEY" in sentence and "hidden" not in sentence
    check(application(env={"TOKENIZERS_PARALLELISM": "false", "AWS_ACCESS_KEY_ID": "a"}), JobSettings())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (JobSettings(namespace="My.Space"), "namespace=My.Space"),
        (JobSettings(queue="a_b"), "queue=a_b"),
        (JobSettings(secrets=("fine", "Not fine")), "secrets=Not fine"),
        (JobSettings(grace_seconds=0), "grace_seconds=0: 1 is the least"),
        (JobSettings(grace_seconds=30), "does not exceed the 30 s"),
        (JobSettings(max_attempts=0), "max_attempts=0: 1 is the least"),
        (JobSettings(lost_node_seconds=-1), "lost_node_seconds=-1: 0 is the least"),
        (JobSettings(metrics_port=70000), "metrics_port=70000"),
        (JobSettings(shm_size="much"), "shm_size=much: write an amount"),
        (JobSettings(tmp_size="0"), "tmp_size=0: write an amount"),
        (JobSettings(hugepages="5 Gi"), "hugepages=5 Gi: write an amount"),
        (JobSettings(labels={"a b": "c"}), "labels: a b is no key"),
        (JobSettings(labels={"a": "-"}), "labels: a:-: a label has"),
        (JobSettings(labels={"app.kubernetes.io/part-of": "x"}), "app.kubernetes.io/part-of is set by us"),
        (JobSettings(labels={"kueue.x-k8s.io/queue-name": "x"}), "kueue.x-k8s.io/queue-name is set by us"),
        (JobSettings(annotations={"/x": "y"}), "annotations: /x is no key"),
        (JobSettings(node_selectors={"pool": "a b"}), "node_selectors: pool:a b"),
        (JobSettings(devices={"rdma": "1"}), "devices: rdma:1 is not DEVICE:NUMBER"),
        (JobSettings(devices={"rdma/hca": "one"}), "devices: rdma/hca:one is not DEVICE:NUMBER"),
        (JobSettings(secret_env={"TOKEN": "secret"}), "secret_env: TOKEN:secret is not VARIABLE:SECRET/KEY"),
        (JobSettings(kueue_priority="p"), "kueue_priority is Kueue's, and needs the queue"),
        (JobSettings(queue="q", kueue_required_topology="a", kueue_preferred_topology="b"), "give one of them"),
        (JobSettings(gang=False, gang_queue="q"), "need gang=true"),
        (JobSettings(run_as_user=0), "run_as_user=0 is root"),
        (JobSettings(ipc_lock=True), "ipc_lock=true adds a capability"),
        (JobSettings(host_network=True), "host_network=true goes beyond"),
        (JobSettings(volumes=("x",)), "volumes: x is not KIND/NAME:PATH"),
    ],
)
def test_run_options(settings: JobSettings, sentence: str) -> None:
    assert sentence in refused(application(), settings)


def test_devices_of_the_host_need_rights() -> None:
    app = application(mounts=[DeviceMount("/dev/fuse", "/dev/fuse")])
    assert "add run option restricted=false" in refused(app)
    check(app, JobSettings(restricted=False))


def test_efa_where_there_is_none() -> None:
    google = application(resource=MACHINES["a100x8_a2highgpu"].resource)
    assert "efa=4: a a2-highgpu-8g has no EFA devices" in refused(google, JobSettings(efa=4))
    amazon = application(resource=MACHINES["a100x8_p4d"].resource)
    assert "efa=8: a p4d.24xlarge has 4 EFA devices" in refused(amazon, JobSettings(efa=8))
    check(amazon, JobSettings(efa=0))


def test_ports() -> None:
    assert "port 9400 is used twice" in refused(application(port_map={"c10d": 9400}))
    assert "port c10d=0" in refused(application(port_map={"c10d": 0}))
    assert "serves its metrics on port 9000" in refused(launch("--metrics-port", "9000"))
    check(launch("--metrics-port", "9000"), JobSettings(metrics_port=9000))


def test_grace_exceeds_what_the_launcher_gives() -> None:
    assert "does not exceed the 90 s" in refused(launch("--shutdown-timeout", "90"))
    check(launch("--shutdown-timeout", "90"), JobSettings(grace_seconds=120))


def test_processes_that_do_not_divide_the_batch() -> None:
    """At most, at least, and between."""
    assert "cannot be shared by 7 processes" in refused(launch("--nproc-per-node", "7", num_replicas=1))
    between = launch("--nproc-per-node", "1", num_replicas=4, min_replicas=1)
    assert "cannot be shared by 3 processes" in refused(between)
    assert "the run may come to 3 nodes" in refused(between)
    check(launch("--nproc-per-node", "1", num_replicas=2, min_replicas=1), JobSettings())
    tuned = ("launch", "--nproc-per-node", "7", "--", "finetune", "configs/demo/xvnli.yaml", "--checkpoint", "x")
    assert "training.batch_size" in refused(application(*tuned, num_replicas=1))


def test_the_shells_line_of_a_component_is_read() -> None:
    assert "cannot be shared by 7 processes" in refused(torchx_components.pretrain(j="1x7", config=CONFIG, image="a:1"))


def test_both_trainings_of_a_task_are_looked_at() -> None:
    app = torchx_components.nlvr_domain("training.batch_size=6", checkpoint="c", j="1x4", image="a:1")
    assert "training.batch_size = 6 cannot be shared evenly by 4 processes" in refused(app)


def test_mistakes_in_the_command_and_config(tmp_path: Path) -> None:
    assert "unrecognized arguments: --no-such" in refused(launch("--no-such"))
    assert "needs a command to run" in refused(application("launch"))
    file = tmp_path / "bad.yaml"
    file.write_text("task: pretrain\nmodle: 1\n")
    with pytest.raises(UserError, match="modle is .*did you mean model"):  # a line for each mistake of a file
        check(launch(config=str(file)), JobSettings())


def test_a_config_that_is_only_in_the_image_is_left_to_the_pod() -> None:
    check(launch("--nproc-per-node", "7", config="/in/the/image.yaml"), JobSettings())


def test_names() -> None:
    with pytest.raises(UserError, match="DNS-1035"):
        build_job(application(name="My-Run"), JobSettings())
    with pytest.raises(UserError, match="too long"):
        build_job(application(name="a" * 60), JobSettings())
    job = build_job(application(), JobSettings())
    assert job["metadata"]["name"].startswith("cclm-pretrain-")


def test_no_torch_and_no_client_are_imported() -> None:
    code = (
        "import sys, torchx_components; from k8s.jobs import build_job; from k8s.settings import JobSettings; "
        "build_job(torchx_components.pretrain(j='1:2x1', image='a:1'), JobSettings()); "
        "sys.exit(', '.join({'torch', 'kubernetes'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
