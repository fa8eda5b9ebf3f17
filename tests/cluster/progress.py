"""Watches a run from outside: every pod's metrics, several times a second, as Prometheus would see them."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes

from .common import wait_for
from .jobs import JOB_LABEL
from .kubectl import condition

METRICS_PORT = 9400
_EVERY = 0.4
_VALUE = re.compile(r"^(cclm_\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Sample:
    """What one pod said at one moment."""

    time: float
    """By time.monotonic()."""
    pod: str
    uid: str
    step: int
    """Outer steps of the run that are done."""
    world: int
    """Training processes of all pods."""


@dataclass(frozen=True)
class Advance:
    """The first sight of a step that was never made before."""

    time: float
    step: int
    world: int


class Progress:
    """A thread that samples all pods of a job until `end`."""

    def __init__(self, kubeconfig: Path, namespace: str, job: str) -> None:
        configuration = kubernetes.client.Configuration()
        kubernetes.config.load_kube_config(str(kubeconfig), client_configuration=configuration)
        configuration.retries = False
        client = kubernetes.client.ApiClient(configuration)
        self._core, self._custom = kubernetes.client.CoreV1Api(client), kubernetes.client.CustomObjectsApi(client)
        self._namespace, self._job = namespace, job
        self.advances: list[Advance] = []
        self.latest: dict[str, Sample] = {}
        """Pod name to its newest sample."""
        self.ended: str | None = None
        """`Succeeded` or `Failed` once the job is."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"progress of {job}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop sampling."""
        self._over.set()
        self._thread.join()

    @property
    def step(self) -> int:
        """The highest step ever seen."""
        return self.advances[-1].step if self.advances else 0

    def _watch(self) -> None:
        while not self._over.wait(_EVERY):
            # What cannot be asked now, such as a pod that has just died or an API server that is down, is asked again.
            with contextlib.suppress(Exception):
                self._look_at_job()
                for pod in self._core.list_namespaced_pod(
                    self._namespace, label_selector=f"{JOB_LABEL}={self._job}", _request_timeout=5
                ).items:
                    if pod.status.phase == "Running" and not pod.metadata.deletion_timestamp:
                        self._ask(pod)

    def _look_at_job(self) -> None:
        place = "kubeflow.org", "v1", self._namespace, "pytorchjobs", self._job
        job = self._custom.get_namespaced_custom_object_status(*place, _request_timeout=5)
        self.ended = next((kind for kind in ("Succeeded", "Failed") if condition(job, kind)), None)

    def _ask(self, pod: Any) -> None:
        with contextlib.suppress(Exception):
            path = f"{pod.metadata.name}:{METRICS_PORT}", self._namespace, "metrics"
            text = self._core.connect_get_namespaced_pod_proxy_with_path(
                *path, _request_timeout=2, _preload_content=False
            ).data.decode()
            values = {name: float(value) for name, labels, value in _VALUE.findall(text) if not labels}
            if "cclm_train_step" in values:
                self._note(pod, int(values["cclm_train_step"]), int(values.get("cclm_world_size", 0)))

    def _note(self, pod: Any, step: int, world: int) -> None:
        now = time.monotonic()
        self.latest[pod.metadata.name] = Sample(now, pod.metadata.name, pod.metadata.uid, step, world)
        if step > self.step:
            self.advances.append(Advance(now, step, world))

    def wait(self, reached: Callable[[], Any], what: str, why: Callable[[], str], timeout: float) -> None:
        """Wait until `reached()` is true."""
        wait_for(reached, what=what, timeout=timeout, every=0.2, why=why)

    def standstill(self, since: float) -> float:
        """The longest time (s) without a step that was never made before, from a moment to the newest such step."""
        times = [since, *(advance.time for advance in self.advances if advance.time > since)]
        return max((after - before for before, after in zip(times, times[1:], strict=False)), default=0.0)
