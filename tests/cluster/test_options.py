"""The further operators: each does, once, what it is there for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.common import ClusterError, wait_for
from tests.cluster.kubectl import condition
from tests.cluster.space import Space

pytestmark = pytest.mark.cluster


def _job(space: Space, name: str, script: str, cpu: str) -> dict[str, Any]:
    spec = space.pod_manifest("ignored", script, resources={"requests": {"cpu": cpu}})["spec"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"kueue.x-k8s.io/queue-name": "line"}},
        "spec": {"suspend": True, "template": {"spec": spec}},
    }


def test_kueue_admits_one_job_and_lets_the_next_wait(space: Space) -> None:
    space.need("kueue")
    api, queue = "kueue.x-k8s.io/v1beta1", space.name
    flavor = {"apiVersion": api, "kind": "ResourceFlavor", "metadata": {"name": queue}}
    quota = {"name": queue, "resources": [{"name": "cpu", "nominalQuota": "100m"}]}
    shared = {
        "apiVersion": api,
        "kind": "ClusterQueue",
        "metadata": {"name": queue},
        "spec": {"namespaceSelector": {}, "resourceGroups": [{"coveredResources": ["cpu"], "flavors": [quota]}]},
    }
    local = {"apiVersion": api, "kind": "LocalQueue", "metadata": {"name": "line"}, "spec": {"clusterQueue": queue}}
    space.api.apply(flavor, shared, local)
    try:
        space.api.apply(_job(space, "first", "exec sleep 100000", "80m"))
        space.api.wait("job", "first", lambda item: item["status"].get("active") == 1, what="the first job's admission")
        space.api.apply(_job(space, "second", "true", "80m"))

        def refused(_: Any) -> bool:
            waiting = [item for item in space.api.get("workload") if item["metadata"]["name"].startswith("job-second")]
            return any("insufficient unused quota" in str(item.get("status")) for item in waiting)

        space.api.wait("job", "second", refused, what="the second job's wait for quota")
        space.api("delete", "job", "first")
        space.api.wait("job", "second", lambda item: item["status"].get("succeeded") == 1, what="the second job's end")
    finally:
        space.api("delete", "clusterqueue,resourceflavor", queue, "--wait=false")


def test_a_trainjob_makes_a_jobset_and_completes(space: Space) -> None:
    space.need("trainer")
    pod = space.pod_manifest("ignored")["spec"]
    container = {
        "name": "node",
        "image": pod["containers"][0]["image"],
        "command": ["sh", "-c", "echo nodes=$PET_NNODES"],
    }
    replicated = {
        "name": "node",
        "template": {
            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
        },
    }
    api = "trainer.kubeflow.org/v1alpha1"
    runtime = {
        "apiVersion": api,
        "kind": "TrainingRuntime",
        "metadata": {"name": "plain", "labels": {"trainer.kubeflow.org/framework": "torch"}},
        "spec": {"mlPolicy": {"numNodes": 2, "torch": {}}, "template": {"spec": {"replicatedJobs": [replicated]}}},
    }
    job = {
        "apiVersion": api,
        "kind": "TrainJob",
        "metadata": {"name": "two"},
        "spec": {
            "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": "plain"},
            "trainer": {"numNodes": 2},
        },
    }
    space.api.apply(runtime)

    def taken() -> bool:
        """The operator hears of the runtime a moment after the API has it."""
        try:
            space.api.apply(job)
        except ClusterError as error:
            if "must be created before" not in str(error):
                raise
            return False
        return True

    wait_for(taken, what="the TrainJob's acceptance", timeout=60)
    space.api.wait("trainjob", "two", lambda item: condition(item, "Complete"), what="the TrainJob's completion")
    pods = space.api.get("pod", None, "-l", "jobset.sigs.k8s.io/jobset-name=two")
    assert len(pods) == 2
    assert {space.api("logs", item["metadata"]["name"]).strip() for item in pods} == {"nodes=2"}


def test_karpenters_definitions_refuse_a_typo(space: Space) -> None:
    space.need("karpenter-crds")
    pool: dict[str, Any] = {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {"name": space.name},
        "spec": {
            "template": {
                "spec": {
                    "expireAfter": "Never",
                    "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "a100"},
                    "requirements": [
                        {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["p4d.24xlarge"]}
                    ],
                }
            }
        },
    }
    _accepts_and_refuses(space, pool, pool["spec"]["template"]["spec"], "expireAfter")


def test_prometheus_definitions_refuse_a_typo(space: Space) -> None:
    space.need("prometheus-crds")
    monitor: dict[str, Any] = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": "cclm"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "podMetricsEndpoints": [{"port": "metrics"}]},
    }
    _accepts_and_refuses(space, monitor, monitor["spec"], "podMetricsEndpoints")


def _accepts_and_refuses(space: Space, manifest: dict[str, Any], place: dict[str, Any], key: str) -> None:
    options = ("create", "--dry-run=server", "--validate=strict", "-f", "-")
    space.api(*options, stdin=json.dumps(manifest))
    place[key + "x"] = place.pop(key)
    with pytest.raises(ClusterError, match=f"unknown field.*{key}x"):
        space.api(*options, stdin=json.dumps(manifest))
