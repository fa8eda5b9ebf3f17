"""A fleet: 200 machines with GPUs and 50 jobs on them, and a count of what a command asks the API server.

The nodes and the pods on them are kwok's: objects of the API server as a large cluster has them, without the machines.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torchx_components
from k8s.jobs import build_job
from k8s.settings import JobSettings

from . import hardware
from .common import wait_for
from .kubectl import Kubectl, Manifest, phase
from .space import Space

NODES, JOBS = 200, 50
EACH = NODES // JOBS
"""Pods of a job. A pod takes a whole machine."""
TOO_LARGE = "job-0"
"""The job that asks for twice as many pods as there are machines left for it."""
_PORT = re.compile(r"^Starting to serve on 127\.0\.0\.1:(\d+)$", re.MULTILINE)
_REQUEST = re.compile(r"Filter accepting (\w+ \S+) ")


@contextmanager
def fleet(space: Space) -> Iterator[None]:
    """The machines and the jobs of this namespace, of which one finds room for half of its pods only.

    The jobs are what `torchx run` makes. The pods of all others run.
    """
    space.need("training-operator", "kwok")
    mark = space.name[-6:]
    try:
        _create(space, *(_node(f"fleet-{mark}-{number}", mark) for number in range(NODES)))
        # A pod that is refused because a node is new has its next turn after others.
        wait_for(lambda: _open_nodes(space, mark) == NODES, what="the nodes of the fleet", timeout=300, every=1)
        _create(space, *(_job(space, f"job-{number}", EACH, mark) for number in range(1, JOBS)))
        wait_for(lambda: _running(space) == NODES - EACH, what="the pods of the fleet", timeout=300, every=2)
        _create(space, _job(space, TOO_LARGE, 2 * EACH, mark))
        wait_for(lambda: _running(space) == NODES, what="the pods that find room", timeout=300, every=1)
        wait_for(lambda: _refused(space) == EACH, what="the pods that find none", timeout=300, every=1)
        yield
    finally:
        space.api("delete", "pytorchjob", "--all", "--wait=false")
        space.api("delete", "node", "-l", f"fleet={mark}", "--wait=false")


def _create(space: Space, *manifests: Manifest) -> None:
    space.api("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))


def _node(name: str, mark: str) -> Manifest:
    node = hardware.fake_node("p4d-24xlarge", name)
    node["metadata"]["labels"]["fleet"] = mark
    return node


def _job(space: Space, name: str, pods: int, mark: str) -> Manifest:
    app = torchx_components.pretrain(
        config="configs/Pretrain_4m.yaml", image="registry.example.com/cclm:1", h="a100x8_p4d", j=f"{pods}x8",
        output_hdfs="s3://bucket/run",
    )  # fmt: skip
    settings = JobSettings(
        namespace=space.name, tolerations=("kwok.x-k8s.io/node:NoSchedule",), node_selectors={"fleet": mark}
    )
    return build_job(app, settings, name)


def _open_nodes(space: Space, mark: str) -> int:
    """How many nodes take pods: at first each is tainted as not ready."""
    taints = [node["spec"].get("taints") or [] for node in space.api.get("node", None, "-l", f"fleet={mark}")]
    return sum(not any(taint["key"] == "node.kubernetes.io/not-ready" for taint in each) for each in taints)


def _refused(space: Space) -> int:
    """How many pods the scheduler has found no node for."""
    conditions = [pod["status"].get("conditions") or [] for pod in space.api.get("pod")]
    return sum(any(one.get("reason") == "Unschedulable" for one in each) for each in conditions)


def _running(space: Space) -> int:
    return sum(phase(pod) == "Running" for pod in space.api.get("pod"))


@dataclass(frozen=True)
class Counter:
    """A way to the API server that notes every request."""

    kubeconfig: Path
    """For whoever is to take this way."""
    _log: Path

    def requests(self) -> list[str]:
        """What was asked so far, as `METHOD path`, without the query."""
        return _REQUEST.findall(self._log.read_text())


@contextmanager
def counter(api: Kubectl, folder: Path) -> Iterator[Counter]:
    """`kubectl proxy`, whose log is the count. It passes requests on one by one, with the rights of `api`."""
    log = folder / "requests.log"
    with (
        log.open("w") as out,
        subprocess.Popen(api.command("proxy", "--port=0", "-v=3"), stdout=out, stderr=out) as way,
    ):
        try:
            found = wait_for(lambda: _PORT.search(log.read_text()), what="kubectl proxy", timeout=60, why=log.read_text)
            entry = {"server": f"http://127.0.0.1:{found[1]}"}
            config = {
                "apiVersion": "v1", "kind": "Config", "current-context": "counted",
                "clusters": [{"name": "counted", "cluster": entry}], "users": [{"name": "counted", "user": {}}],
                "contexts": [{"name": "counted", "context": {"cluster": "counted", "user": "counted"}}],
            }  # fmt: skip
            (folder / "counted").write_text(json.dumps(config))
            yield Counter(folder / "counted", log)
        finally:
            way.kill()
