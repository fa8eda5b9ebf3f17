"""What the fixtures promise to a test: another one's cluster, and traces of a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cluster import debs, images
from tests.cluster.cluster import Cluster
from tests.cluster.common import PROJECT
from tests.cluster.space import PUBLIC_TOOLS

pytestmark = pytest.mark.cluster


def _pytest(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "tests.cluster.plugin", "-p", "no:cacheprovider", "-rs"]
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.run([*command, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty project that uses this package's fixtures."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    cluster: x\n")
    return tmp_path


_FAILS = """
def test_that_fails(space):
    space.start_pod("talker", "echo words of a pod; exec sleep 100000")
    space.api.wait("pod", "talker", lambda _: "words" in space.api("logs", "talker"), what="its words")
    # The kubelet tells events when it has time.
    told = lambda _: "Started" in [item["reason"] for item in space.api.get("event")]
    space.api.wait("pod", "talker", told, what="the event of its start")
    assert 1 == 2, "on purpose"
"""


def test_a_failure_keeps_what_the_cluster_says(machines: Cluster, project: Path) -> None:
    (project / "test_failing.py").write_text(_FAILS)
    done = _pytest(project, "--cluster", machines.name)
    assert done.returncode == 1 and "1 failed" in done.stdout, done.stdout
    (kept,) = (project / "build" / "cluster-failures").iterdir()
    assert f"what the cluster says is kept in {kept}" in done.stdout
    assert "words of a pod" in (kept / "talker.log").read_text()
    assert "Started" in (kept / "events.txt").read_text()
    (pod,) = [item for item in yaml.safe_load((kept / "objects.yaml").read_text())["items"] if item["kind"] == "Pod"]
    assert pod["metadata"]["name"] == "talker"
    assert "node node-1" in (kept / "status.txt").read_text()
    logs = {str(path.relative_to(kept / "components")) for path in (kept / "components").rglob("*.log")}
    assert {"control/kube-apiserver.log", "control/etcd.log", "node-1/kubelet.log", "node-2/containerd.log"} <= logs
    assert (kept / "operator-training-operator.log").read_text()


def test_the_same_tests_run_on_a_cluster_of_somebody_else(machines: Cluster, project: Path) -> None:
    """A copy of the kubeconfig is all that is known; the image that such a cluster would pull is put there first."""
    busybox = debs.program("tools", "busybox")
    names = [line for line in subprocess.check_output([busybox, "--list"], text=True).split() if line != "busybox"]
    links = {f"bin/{name}": "busybox" for name in names}
    machines.load(images.archive(f"docker.io/library/{PUBLIC_TOOLS}", {"bin/busybox": busybox}, links=links))
    shutil.copy(machines.kubeconfig, project / "elsewhere")
    tests = PROJECT / "tests" / "cluster"
    files = [str(tests / name) for name in ("test_faults_pods.py", "test_faults_nodes.py")]
    done = _pytest(project, f"--kubeconfig={project / 'elsewhere'}", "-k", "quota or cordoned", *files)
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 skipped" in done.stdout, done.stdout
    assert "is not ours to damage" in done.stdout
