"""The chart of a run on a cluster: installed, upgraded, rolled back, uninstalled, by helm 3 and helm 4."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from torchx.specs import AppState

from k8s.scheduler import KubernetesScheduler
from tests.cluster.charts import HELMS, KUBERNETES, RUN, given, helm, rendered
from tests.cluster.common import wait_for
from tests.cluster.kubectl import Kubectl
from tests.cluster.space import Space

pytestmark = pytest.mark.cluster

NOWHERE = {"scheduling.nodeSelector": {"cclm.test/none": "there"}}
"""Pods that are never placed: such a run has not ended, and needs no image."""


def test_every_feature_is_taken_by_the_real_definitions(space: Space) -> None:
    space.need("prometheus-crds")
    for file in sorted((RUN / "ci").glob("*-values.yaml")):
        helm("lint", RUN, "--strict", "--values", file, *KUBERNETES)
        objects = rendered(RUN, "run", "--namespace", space.name, "--values", file)
        for one in objects:
            if one["kind"] == "Pod":
                del one["spec"]["serviceAccountName"]  # nothing is created, so it is not there
        text = yaml.safe_dump_all(objects)
        Kubectl(space.api.kubeconfig)("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)


class Release:
    """The chart, installed in a test's namespace by one of the helms."""

    def __init__(self, space: Space, program: str, name: str = "run") -> None:
        self.space, self.program, self.name = space, program, name
        self._place = ("--kubeconfig", space.api.kubeconfig, "--namespace", space.name)

    def __call__(
        self, verb: str, *arguments: object, check: bool = True, **values: Any
    ) -> subprocess.CompletedProcess[str]:
        chart = [RUN] if verb in ("install", "upgrade") else []
        words = [verb, self.name, *chart, *self._place, *arguments, *given(values)]
        return helm(*words, program=self.program, check=check)

    def jobs(self) -> dict[str, str]:
        """Name to uid of each job."""
        found = self.space.api.get("pytorchjob")
        return {one["metadata"]["name"]: one["metadata"]["uid"] for one in found}

    def job(self) -> str:
        """The name of the only one."""
        (name,) = self.jobs()
        return name


@pytest.fixture(params=HELMS)
def release(request: pytest.FixtureRequest, space: Space) -> Iterator[Release]:
    made = Release(space, request.param)
    yield made
    made("uninstall", check=False)


def test_a_run_is_kept_or_refused_and_its_claim_stays(release: Release, space: Space) -> None:
    nodes = {"nodes.min": 1, "nodes.max": 2, "output.claim.create": True}
    printed = release("install", **NOWHERE, **nodes).stdout
    first = release.jobs()
    (name,) = first
    for words in (f"helm test run -n {space.name}", f"torchx log -t kubernetes://torchx/{space.name}:{name}"):
        assert words in printed
    assert "claim run-output. It stays when the release is uninstalled." in printed
    claim = space.api.get("pvc", "run-output")["metadata"]["uid"]

    # What is not of the run leaves it alone, and so does what somebody has done to it.
    space.api("scale", "pytorchjob", name, "--replicas=1")
    rights = {"rbac.create": True, "rbac.subjects": [{"kind": "Group", "name": "vision"}]}
    release("upgrade", **NOWHERE, **nodes, **rights)
    assert release.jobs() == first
    assert space.api.get("pytorchjob", name)["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 1

    refused = release("upgrade", check=False, **NOWHERE, **nodes, seed=1)
    assert refused.returncode != 0
    assert f"the run {name} has not ended, and these values are another run" in refused.stderr
    assert release.jobs() == first

    release("upgrade", **NOWHERE, **nodes, seed=1, onUpgrade="replace")
    assert len(release.jobs()) == 1 and name not in release.jobs()
    assert space.api.get("configmap", release.job()) is not None

    release("rollback", "1")
    assert list(release.jobs()) == [name]

    release("uninstall")
    assert not release.jobs()
    assert space.api.get("pvc", "run-output")["metadata"]["uid"] == claim
    release("install", **NOWHERE, **nodes)
    assert space.api.get("pvc", "run-output")["metadata"]["uid"] == claim


def test_torchx_knows_a_run_of_the_chart(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """helm has taken the label `managed-by` for itself."""
    release = Release(space, HELMS[0])
    monkeypatch.setenv("KUBECONFIG", str(space.api.kubeconfig))
    torchx = KubernetesScheduler("torchx")
    try:
        release("install", **NOWHERE)
        app_id = f"{space.name}:{release.job()}"

        def waits_for_a_node() -> bool:
            found = torchx.describe(app_id)
            return found is not None and "no node has room" in found.msg

        wait_for(waits_for_a_node, what="why the run's pod waits", timeout=60)
        assert {one.app_id: one.state for one in torchx.list()}[app_id] is AppState.PENDING
        torchx.cancel(app_id)
        found = torchx.describe(app_id)
        assert found is not None and found.state is AppState.CANCELLED and "cancelled at" in found.msg
        torchx.delete(app_id)
        assert torchx.describe(app_id) is None
    finally:
        release("uninstall", check=False)
