"""Damage to the control plane: running pods do not notice (test_runs_commands), and nothing is forgotten."""

from __future__ import annotations

import json

import pytest

from tests.cluster import faults, layout
from tests.cluster.cluster import Cluster
from tests.cluster.common import ClusterError, wait_for
from tests.cluster.jobs import stock_job
from tests.cluster.kubectl import phase
from tests.cluster.space import Space

pytestmark = pytest.mark.cluster


@pytest.mark.usefixtures("soak")
@pytest.mark.parametrize("component", ["kube-apiserver", "etcd"])
def test_running_pods_outlive_the_api(space: Space, machines: Cluster, component: str) -> None:
    space.start_pod("before", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.2; done", node="node-1")
    faults.kill_component(machines, component)
    with pytest.raises(ClusterError):
        space.api("create", "configmap", "lost", "--request-timeout=4s")
    faults.restart_component(machines, component)
    machines.wait_for_node("node-1")
    item = space.wait_phase("before", "Running")
    assert item["status"]["containerStatuses"][0]["restartCount"] == 0
    assert space.api.get("configmap", "lost") is None
    space.start_pod("after")


def test_without_a_scheduler_pods_wait_for_it(space: Space, machines: Cluster) -> None:
    faults.kill_component(machines, "kube-scheduler")
    space.api.apply(space.pod_manifest("waiting"))
    # A node takes what is bound to it without any scheduler; when that pod runs, the other had its time.
    bound = space.pod_manifest("bound")
    bound["spec"]["nodeName"] = "node-1"
    space.api.apply(bound)
    space.wait_phase("bound", "Running")
    assert phase(space.api.get("pod", "waiting")) == "Pending"
    faults.restart_component(machines, "kube-scheduler")
    space.wait_phase("waiting", "Running")


def test_without_a_controller_manager_jobs_wait_for_it(space: Space, machines: Cluster) -> None:
    # It gives a new namespace what every pod there mounts.
    present = lambda item: item is not None  # noqa: E731
    space.api.wait("configmap", "kube-root-ca.crt", present, what="the namespace's certificates", every=0.1)
    faults.kill_component(machines, "kube-controller-manager")
    spec = {**space.pod_manifest("ignored", "true")["spec"]}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"}, "spec": {"template": {"spec": spec}}}
    space.api.apply(job)
    space.start_pod("meanwhile")  # the scheduler and the nodes work
    assert [item["metadata"]["name"] for item in space.api.get("pod")] == ["meanwhile"]
    faults.restart_component(machines, "kube-controller-manager")
    space.api.wait("job", "once", lambda item: item["status"].get("succeeded") == 1, what="the job's end")


def test_without_its_operator_a_job_is_refused_and_then_made(space: Space, machines: Cluster) -> None:
    faults.kill_operator(machines.kubectl)
    job = stock_job("early", steps=1)

    def refused(*options: str) -> bool:
        # A single attempt: `Kubectl.apply` would wait for the webhook to come back.
        done = space.api.attempt("apply", *options, "-f", "-", stdin=json.dumps(job))
        return done.returncode != 0 and "failed calling webhook" in done.stderr

    # Killed without grace it is gone from the API first, and may answer for a moment more.
    wait_for(lambda: refused("--dry-run=server"), what="the webhook's silence", timeout=60)
    # Its webhook must answer before a job is taken: a dead operator refuses new jobs instead of forgetting them.
    assert refused()
    assert space.api.get("pytorchjob", "early") is None
    faults.restart_operator(machines)
    space.api.apply(job)
    space.api.wait("pod", "early-worker-0", lambda item: item is not None, what="the job's first pod")


def test_names_of_parts_that_do_not_exist_are_refused(machines: Cluster) -> None:
    with pytest.raises(ClusterError, match="node-1, node-2"):
        faults.kill_node(machines, layout.CONTROL)
    with pytest.raises(ClusterError, match="etcd"):
        faults.kill_component(machines, "kubernetes")
