"""A plain elastic PyTorchJob, as a careful user would write it without this project's launcher."""

from __future__ import annotations

import sys
from typing import Any

from . import mounted
from .common import HERE
from .kubectl import Kubectl, Manifest, condition

JOB_LABEL = "training.kubeflow.org/job-name"


def stock_job(name: str, steps: int, seconds: float = 0.5, workers: int = 2, least: int = 1) -> Manifest:
    """An all-reduce under torchrun: as many pods as nodes, one to a node; `least` of them start without the others."""
    parts = mounted.pod_parts()
    container = {
        "name": "pytorch",
        "command": [sys.executable, "-m", "torch.distributed.run"],
        "args": [str(HERE / "programs" / "allreduce.py"), str(steps), str(seconds)],
        **parts["container"],
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {JOB_LABEL: name}},
    }
    pod = {"containers": [container], "volumes": parts["volumes"], "topologySpreadConstraints": [spread]}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name},
        "spec": {
            "nprocPerNode": "1",
            "runPolicy": {"cleanPodPolicy": "None"},
            "elasticPolicy": {
                "minReplicas": least,
                "maxReplicas": workers,
                "rdzvBackend": "c10d",
                "rdzvId": name,
                "maxRestarts": 3,
                # Stock waits 30 s for further workers; every test would.
                "rdzvConf": [{"key": "last_call_timeout", "value": "10"}],
            },
            "pytorchReplicaSpecs": {
                "Worker": {
                    "replicas": workers,
                    "restartPolicy": "ExitCode",
                    "template": {"spec": {**pod, "terminationGracePeriodSeconds": 5}},
                }
            },
        },
    }


def wait_condition(api: Kubectl, name: str, *kinds: str, timeout: float = 240) -> str:
    """Wait until a job has one of these conditions; which."""

    def reached(item: Any) -> str | None:
        return next((kind for kind in kinds if condition(item, kind)), None)

    what = f"PyTorchJob {name} becoming {' or '.join(kinds)}"
    return str(api.wait("pytorchjob", name, reached, what=what, timeout=timeout, every=1))


def wait_step(api: Kubectl, pod: str, step: int, world: int, timeout: float = 240) -> None:
    """Wait until a pod has printed that it made this step in a world of this size, or a later one."""

    def made(_: Any) -> bool:
        for line in api.attempt("logs", pod).stdout.splitlines():
            words = dict(word.split("=", 1) for word in line.split() if "=" in word)
            if words.get("world") == str(world) and int(words.get("step", "-1")) >= step:
                return True
        return False

    api.wait("pod", pod, made, what=f"step {step} in a world of {world} on pod {pod}", timeout=timeout, every=1)
