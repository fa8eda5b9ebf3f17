"""A file of the user's, merged into the pod."""

from pathlib import Path

import pytest
import yaml

from cclm.errors import UserError
from k8s.jobs import build_job
from k8s.overlay import merge
from k8s.settings import JobSettings
from tests.unit.k8s.applications import application


def test_mappings_names_and_null() -> None:
    base = {"a": {"b": 1, "c": 2}, "list": [{"name": "x", "v": 1}, {"name": "y"}], "plain": [1], "gone": 1}
    change = {"a": {"b": 3}, "list": [{"name": "x", "v": 2}, {"name": "z"}], "plain": [2], "gone": None, "new": 1}
    assert merge(base, change) == {
        "a": {"b": 3, "c": 2}, "list": [{"name": "x", "v": 2}, {"name": "y"}, {"name": "z"}], "plain": [1, 2], "new": 1,
    }  # fmt: skip
    assert base["gone"] == 1


def test_pod_gets_what_no_option_has(tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    container = {"name": "pytorch", "env": [{"name": "NCCL_DEBUG", "value": "INFO"}], "tty": True}
    spec = {"runtimeClassName": "nvidia", "containers": [container], "affinity": None}
    file.write_text(yaml.safe_dump({"metadata": {"annotations": {"a": "b"}}, "spec": spec}))
    job = build_job(application(), JobSettings(overlay=str(file)))
    template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    assert template["metadata"]["annotations"]["a"] == "b"
    assert template["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
    pod = template["spec"]
    assert pod["runtimeClassName"] == "nvidia"
    assert "affinity" not in pod
    (found,) = pod["containers"]
    assert found["tty"] and found["image"] == "registry/cclm:1"
    assert {"TORCHX_REPLICA_ID", "NCCL_DEBUG"} <= {one["name"] for one in found["env"]}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "cannot be read"),
        ("a: [", "cannot be read"),
        ("- a", "holds a mapping with metadata and spec"),
        ("kind: Pod", "holds a mapping with metadata and spec"),
        ("spec: 1", "holds a mapping with metadata and spec"),
    ],
)
def test_refused(tmp_path: Path, text: str | None, sentence: str) -> None:
    file = tmp_path / "pod.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=sentence):
        build_job(application(), JobSettings(overlay=str(file)))
