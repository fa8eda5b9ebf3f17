"""Nodes and pods as the API server lists them when machines are lost."""

from typing import Any

JUST_NOW, IN_A_MINUTE = "2026-05-01T11:59:59Z", "2026-05-01T12:01:00Z"
OURS = {"app.kubernetes.io/part-of": "cclm", "training.kubeflow.org/job-name": "run7"}


def node(name: str, ready: str = "True", *, taint: str | None = None, effect: str = "NoExecute") -> dict[str, Any]:
    if taint is None and ready != "True":
        taint = "unreachable" if ready == "Unknown" else "not-ready"
    taints = [{"key": f"node.kubernetes.io/{taint}", "effect": effect}] if taint else []
    return {
        "metadata": {"name": name, "uid": f"uid-{name}"},
        "spec": {"taints": taints} if taints else {},
        "status": {"conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": ready}]},
    }


def pod(name: str, at: str, labels: dict[str, str] = OURS, *, deleted: str | None = IN_A_MINUTE) -> dict[str, Any]:
    owner = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": "run7", "uid": "j", "controller": True}
    metadata = {"name": name, "namespace": "team", "uid": f"uid-{name}", "labels": labels, "ownerReferences": [owner]}
    return {"metadata": metadata | ({"deletionTimestamp": deleted} if deleted else {}), "spec": {"nodeName": at}}
