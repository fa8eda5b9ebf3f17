"""An elastic PyTorchJob on two nodes, and what becomes of a stock one when something is lost.

The tests of loss expect the job to fail: that is what the training operator and torchrun do by themselves
today. They are the measure for this project's launcher, whose own tests show the difference.
"""

from __future__ import annotations

import copy

import pytest
import yaml

from tests.cluster import faults
from tests.cluster.cluster import Cluster
from tests.cluster.jobs import JOB_LABEL, stock_job, wait_condition, wait_step
from tests.cluster.space import Space

pytestmark = pytest.mark.cluster


def _needs_this_machine(space: Space) -> None:
    if space.owned is None:
        pytest.skip("the job runs this machine's Python, which the nodes of --kubeconfig do not have")


def _exit_code(space: Space, pod: str) -> int:
    (container,) = space.wait_phase(pod, "Failed")["status"]["containerStatuses"]
    return int(container["state"]["terminated"]["exitCode"])


def test_two_pods_on_two_nodes_all_reduce_and_succeed(space: Space) -> None:
    _needs_this_machine(space)
    # With fewer, on a busy machine one could be done before the other has come.
    space.api.apply(stock_job("sum", steps=6, least=2))
    assert wait_condition(space.api, "sum", "Succeeded", "Failed") == "Succeeded"
    pods = space.api.get("pod", None, "-l", f"{JOB_LABEL}=sum")
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 2
    for pod in pods:  # the first one's end is the job's
        space.wait_phase(pod["metadata"]["name"], "Succeeded")
    assert "step=5 world=2 rank=0 sum=3" in "".join(space.api("logs", pod["metadata"]["name"]) for pod in pods)


def test_stock_job_fails_when_worker_0_is_deleted(space: Space) -> None:
    """torchrun exits 1 when it is told to end, and so does the survivor's, whose rendezvous store died with worker-0.

    To the restart policy ExitCode a 1 is a bug in the program, which no restart would mend.
    """
    _needs_this_machine(space)
    space.api.apply(stock_job("stock", steps=100000))
    wait_step(space.api, "stock-worker-0", 2, world=2)
    faults.delete_pod(space.api, "stock-worker-0")
    assert wait_condition(space.api, "stock", "Succeeded", "Failed") == "Failed"
    assert _exit_code(space, "stock-worker-1") == 1


@pytest.mark.usefixtures("soak")
def test_stock_job_fails_when_its_node_is_lost(space: Space, machines: Cluster) -> None:
    _needs_this_machine(space)
    space.api.apply(stock_job("stock", steps=100000))
    wait_step(space.api, "stock-worker-0", 2, world=2)
    lost = space.api.get("pod", "stock-worker-0")["spec"]["nodeName"]
    faults.kill_node(machines, lost)
    assert wait_condition(space.api, "stock", "Succeeded", "Failed") == "Failed"
    assert _exit_code(space, "stock-worker-1") == 1
    # Nobody told the API server: the dead node's pod is still taken for a running one.
    assert space.api.get("pod", "stock-worker-0")["status"]["phase"] == "Running"


def test_dry_run_refuses_a_manifest_with_a_typo(space: Space) -> None:
    space.need("training-operator")
    right = stock_job("typo", steps=1)
    options = ("apply", "--dry-run=server", "--validate=strict", "-f", "-")
    space.api(*options, stdin=yaml.safe_dump(right))
    wrong = copy.deepcopy(right)
    policy = wrong["spec"]["elasticPolicy"]
    policy["maxReplica"] = policy.pop("maxReplicas")
    refused = space.api.attempt(*options, stdin=yaml.safe_dump(wrong))
    assert refused.returncode != 0
    assert 'unknown field "spec.elasticPolicy.maxReplica"' in refused.stderr
    assert space.api.get("pytorchjob", "typo") is None
