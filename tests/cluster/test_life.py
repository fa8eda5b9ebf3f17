"""The command line, from `build` to `down`, with as many nodes as it offers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cluster import debs, gobuild, images, layout, status, traces
from tests.cluster.cluster import Cluster, core_programs
from tests.cluster.common import PROJECT, versions

pytestmark = pytest.mark.cluster

_SERVER = "localhost/cclm/life:1"


def _command(*words: str, stdin: str | None = None, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "tests.cluster", *words]
    return subprocess.run(whole, cwd=PROJECT, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture
def life(owned_cluster: Cluster | None) -> Iterator[Cluster]:
    """A cluster for the command line, gone after the test."""
    if owned_cluster is None:
        pytest.skip("this test brings up a cluster of its own")
    cluster = Cluster(f"life-{os.getpid()}")
    try:
        yield cluster
    finally:
        cluster.down()


def test_build_names_every_program_and_where_it_is(owned_cluster: Cluster | None) -> None:
    if owned_cluster is None:
        pytest.skip("this test builds what a cluster of ours needs")
    done = _command("build", timeout=5000)  # Prometheus and promtool take long the first time
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    for name in [*core_programs(), "helm", "prometheus", "promtool"]:
        assert rows[name] == [versions()["go"][name]["version"], str(gobuild.binary(name))]
        assert gobuild.binary(name).exists()
    for group, names in versions()["debian"]["groups"].items():
        assert names[0] in rows[group]


def test_four_nodes_from_up_to_down(life: Cluster, owned_cluster: Cluster) -> None:
    before = traces.of_machine()
    up = _command("--name", life.name, "up", "--nodes", "4", "--with", "prometheus-crds")
    assert up.returncode == 0, up.stderr
    for machine in ["control", "node-1", "node-2", "node-3", "node-4"]:
        assert re.search(rf"^node {machine} +Ready", up.stdout, re.MULTILINE)
    assert re.search(r"^option prometheus-crds +installed", up.stdout, re.MULTILINE)
    assert re.search(r"^up in \d+ s, \d\.\d\d GB resident$", up.stdout, re.MULTILINE)
    assert f"export KUBECONFIG={life.kubeconfig}" in up.stdout
    again = _command("--name", life.name, "up")
    assert again.returncode == 1 and "is up already" in again.stderr
    status.wait_healthy(life, "a healthy cluster")
    healthy = _command("--name", life.name, "status")
    assert healthy.returncode == 0 and "unhealthy" not in healthy.stdout
    assert _command("--name", life.name, "run", "sh", "-c", "exit 3").returncode == 3

    _serve_on_every_node(life)
    # Beside it: its own API, the same addresses inside, and nothing of either shows on the machine.
    assert life.kubeconfig.read_text() != owned_cluster.kubeconfig.read_text()
    status.wait_healthy(owned_cluster, "the first, healthy beside it")
    assert traces.of_machine() == before, "a running cluster shows on the machine"
    members = traces.members(life)
    assert len(members) > 40

    down = _command("--name", life.name, "down")
    assert down.returncode == 0, down.stderr
    traces.assert_nothing_of(life)
    # A namespace lives by its processes and its mounts, so with both gone none is left.
    assert traces.living(members) == []
    assert traces.of_machine() == before
    assert "is not up" in _command("--name", life.name, "status").stderr
    assert "is not up" in _command("--name", life.name, "down").stdout


def _serve_on_every_node(cluster: Cluster) -> None:
    """Load an image by hand, run it on every node, and reach it from outside and from node to node."""
    busybox = debs.program("tools", "busybox")
    files = {"bin/busybox": busybox, "www/said": b"loaded by hand"}
    archive = images.archive(_SERVER, files, links={"bin/sh": "busybox"})
    loaded = _command("--name", cluster.name, "load", str(archive))
    assert (loaded.returncode, loaded.stdout) == (0, f"{_SERVER}\n"), loaded.stderr
    container = {"name": "main", "image": _SERVER, "imagePullPolicy": "Never"}
    container["command"] = ["busybox", "httpd", "-f", "-p", "8000", "-h", "/www"]  # type: ignore[assignment]
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"on-{machine}"},
            "spec": {"nodeName": machine, "terminationGracePeriodSeconds": 0, "containers": [container]},
        }
        for machine in layout.node_names(4)
    ]
    run = ("--name", cluster.name, "run")
    listing = json.dumps({"kind": "List", "apiVersion": "v1", "items": pods})
    made = _command(*run, "kubectl", "apply", "-f", "-", stdin=listing)
    assert made.returncode == 0, made.stderr
    waited = _command(*run, "kubectl", "wait", "pod", "--all", "--for=condition=Ready", "--timeout=120s")
    assert waited.returncode == 0, waited.stderr
    listed = json.loads(_command(*run, "kubectl", "get", "pods", "-o", "json").stdout)["items"]
    addresses = {item["spec"]["nodeName"]: item["status"]["podIP"] for item in listed}
    assert len(set(addresses.values())) == 4
    ask = "import sys, urllib.request; [print(urllib.request.urlopen(url, timeout=10).read()) for url in sys.argv[1:]]"
    urls = [f"http://{address}:8000/said" for address in addresses.values()]
    inside = _command(*run, "--inside", sys.executable, "-c", ask, *urls)
    assert inside.stdout == "b'loaded by hand'\n" * 4, inside.stderr
    fetch = f"printf 'GET /said HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 10 {addresses['node-4']} 8000"
    between = _command(*run, "kubectl", "exec", "on-node-1", "--", "sh", "-c", fetch)
    assert between.stdout.endswith("loaded by hand"), between.stderr
