"""Plain elastic PyTorchJobs: a training one as a careful user would write it without this project, and shells."""

from __future__ import annotations

import sys
from typing import Any

from . import mounted
from .common import HERE
from .kubectl import Kubectl, Manifest, condition
from .space import Space

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


def shell_job(
    space: Space, name: str, script: str, workers: int = 2, clean: str = "None", grace: int = 10, **policy: Any
) -> Manifest:
    """A job of shells, each with its number in $INDEX: for what the operator makes of their ends.

    Args:
        space: where it will run.
        name: of the job.
        script: what each shell runs.
        workers: how many there are.
        clean: the job's cleanPodPolicy.
        grace: seconds that pods get to end.
        policy: further fields of the job's runPolicy.
    """
    index = {"fieldRef": {"fieldPath": "metadata.labels['training.kubeflow.org/replica-index']"}}
    container = {
        "name": "pytorch",
        "image": space.tools,
        "command": ["sh", "-c", script],
        "env": [{"name": "INDEX", "valueFrom": index}],
    }
    pod: dict[str, Any] = {"containers": [container], "terminationGracePeriodSeconds": grace}
    worker = {"replicas": workers, "restartPolicy": "ExitCode", "template": {"spec": pod}}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name},
        "spec": {
            "runPolicy": {"cleanPodPolicy": clean, **policy},
            "elasticPolicy": {"minReplicas": 1, "maxReplicas": 3, "rdzvBackend": "c10d", "rdzvId": name},
            "pytorchReplicaSpecs": {"Worker": worker},
        },
    }


def pod_spec(job: Manifest) -> dict[str, Any]:
    """The spec of a job's pods, to be changed."""
    spec: dict[str, Any] = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    return spec


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
