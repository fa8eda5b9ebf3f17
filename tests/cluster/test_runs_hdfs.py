"""A run whose data and checkpoints are on HDFS."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cluster import demo_run, images, mounted, runs
from tests.cluster.cluster import Cluster
from tests.cluster.runs import Workbench
from tests.cluster.space import Space
from tests.cluster.stores import ClusterHdfs

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("soak")]

_UPLOAD = """
import sys
from pathlib import Path
from cclm import storage
here, there = Path(sys.argv[1]), sys.argv[2]
for path in here.rglob("*.jsonl"):
    storage.write_atomic(storage.join(there, str(path.relative_to(here))), path.read_bytes())
"""
_READ = "import sys; from cclm import storage; sys.stdout.buffer.write(storage.read_bytes(sys.argv[1]))"


def test_data_and_checkpoints_on_hdfs(space: Space, machines: Cluster, bench: Workbench, tmp_path: Path) -> None:
    if not shutil.which("java"):
        pytest.skip("HDFS needs java")
    store = ClusterHdfs(machines, tmp_path)
    store.create()
    try:
        data, output = f"{store.url}/data", f"{store.url}/run"
        uploaded = store.python("-c", _UPLOAD, str(bench.world / "data" / "pretrain"), data)
        assert uploaded.returncode == 0, uploaded.stderr
        indexed = store.python("-m", "cclm", "data", "index", f"{data}/image_text", f"{data}/parallel_text")
        assert indexed.returncode == 0, indexed.stderr
        config = demo_run.write(bench.folder / "hdfs.yaml", demo_run.settings(bench.world, data, steps=40))
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hdfs"}, "stringData": store.environment}
        space.api.apply(secret)
        env = {entry["name"]: entry["value"] for entry in mounted.pod_parts()["container"]["env"]}
        run = runs.submit(
            space, bench,
            "--config", str(config), "-j", "2x1", "--image", images.BARE, "--cpu", "1", "--memMB", "2048",
            "--mounts", bench.mounts(), "--env", ",".join(f"{key}={value}" for key, value in env.items()),
            steps=40, output=output, options=[f"run_as_user={runs.USER}", "secrets=hdfs"],
        )  # fmt: skip
        with run:
            assert run.wait_end() == "Succeeded", run.why()
        lines = store.python("-c", _READ, f"{output}/metrics.jsonl").stdout.splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, 41))
        described = store.python("-m", "cclm", "describe", output)
        assert "step-00000040" in described.stdout, described
    finally:
        store.kill()
