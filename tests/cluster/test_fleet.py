"""A large cluster: `torchx list` and `torchx status` ask as little of it as of a small one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cluster.fleet import EACH, JOBS, TOO_LARGE, counter, fleet
from tests.cluster.space import Space
from tests.cluster.talkers import torchx

pytestmark = pytest.mark.cluster

PYTORCH = "GET /apis/kubeflow.org/v1"
TRAIN_JOBS = "GET /apis/trainer.kubeflow.org/v1alpha1/trainjobs"


def test_each_command_asks_a_fleet_few_times(space: Space, tmp_path: Path) -> None:
    """200 nodes and 50 jobs; the numbers are those of docs/kubernetes.md."""
    with fleet(space), counter(space.api, tmp_path) as counted:

        def ask(*words: str) -> tuple[str, list[str]]:
            before = len(counted.requests())
            said = torchx(space, *words, KUBECONFIG=str(counted.kubeconfig))
            assert said.code == 0, said.err
            return said.out, sorted(counted.requests()[before:])

        listed, asked = ask("list", "-s", "kubernetes")
        states = re.findall(rf"^kubernetes://torchx/{space.name}:job-\d+ +(\w+)", listed, re.MULTILINE)
        assert states == ["RUNNING"] * JOBS
        assert asked == [
            "GET /api/v1/pods",
            f"{PYTORCH}/pytorchjobs",
            "GET /apis/trainer.kubeflow.org/v1alpha1/trainjobs",
        ]

        inside = f"GET /api/v1/namespaces/{space.name}"
        # The pods of kwok serve no metrics, so a second one is asked.
        of_each = [f"{inside}/events", f"{inside}/events", f"{inside}/pods"]
        status, asked = ask("status", f"kubernetes://torchx/{space.name}:job-7")
        assert status.count(":RUNNING") == EACH
        metrics = [f"{inside}/pods/job-7-worker-{index}:9400/proxy/metrics" for index in (0, 1)]
        assert asked == [*of_each, *metrics, f"{PYTORCH}/namespaces/{space.name}/pytorchjobs/job-7"]

        status, asked = ask("status", f"kubernetes://torchx/{space.name}:{TOO_LARGE}")
        assert f"replica {EACH}-{2 * EACH - 1}: no node has room" in status
        metrics = [f"{inside}/pods/{TOO_LARGE}-worker-{index}:9400/proxy/metrics" for index in (0, 1)]
        job = f"{PYTORCH}/namespaces/{space.name}/pytorchjobs/{TOO_LARGE}"
        assert asked == [*of_each, *metrics, "GET /api/v1/nodes", job]
