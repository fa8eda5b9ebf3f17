"""Damage to nodes and their links, seen on trivial pods.

CI does the damage to nodes to a run, in test_runs_faults, so here it is behind `--soak`.
"""

from __future__ import annotations

import re

import pytest

from tests.cluster import faults
from tests.cluster.cluster import Cluster
from tests.cluster.common import ClusterError, wait_for
from tests.cluster.space import Space

pytestmark = pytest.mark.cluster


@pytest.mark.usefixtures("soak")
def test_a_killed_node_is_noticed_and_comes_back(space: Space, machines: Cluster) -> None:
    space.start_pod("there", node="node-1")
    space.start_pod("elsewhere", node="node-2")
    faults.kill_node(machines, "node-1")
    assert space.api.get("pod", "there")["status"]["phase"] == "Running"  # nobody knows yet
    machines.wait_for_node("node-1", ready=False)
    taints = machines.kubectl.wait(
        "node", "node-1", lambda item: item["spec"].get("taints"), what="the taint of a lost node"
    )
    assert "node.kubernetes.io/unreachable" in {taint["key"] for taint in taints}
    assert space.shell("elsewhere", "echo alive").strip() == "alive"
    faults.revive_node(machines, "node-1")
    # Its pod's only container died with the power, and its restart policy is Never.
    space.wait_phase("there", "Failed")
    space.start_pod("after", node="node-1")


@pytest.mark.usefixtures("soak")
def test_a_cut_node_goes_on_alone_and_is_whole_when_it_rejoins(space: Space, machines: Cluster) -> None:
    space.start_pod("counting", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.2; done", node="node-2")
    faults.cut_node(machines, "node-2")
    machines.wait_for_node("node-2", ready=False)
    faults.rejoin_node(machines, "node-2")
    machines.wait_for_node("node-2")
    item = space.wait_phase("counting", "Running")
    assert item["status"]["containerStatuses"][0]["restartCount"] == 0
    # It counted all the time: 0.2 s each, over a loss that takes the grace period to notice.
    assert int(space.api("logs", "counting", "--tail=1")) > 50


@pytest.mark.usefixtures("soak")
def test_drain_moves_pods_away_and_uncordon_lets_them_back(space: Space, machines: Cluster) -> None:
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "service"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "service"}},
            "template": {"metadata": {"labels": {"app": "service"}}, "spec": _template(space)},
        },
    }
    space.api.apply(deployment)
    _wait_on(space, {"node-1", "node-2"})
    faults.drain_node(machines.kubectl, "node-1")
    _wait_on(space, {"node-2"})
    assert machines.kubectl.get("node", "node-1")["spec"]["unschedulable"] is True
    faults.uncordon_node(machines.kubectl, "node-1")
    space.start_pod("back", node="node-1")


def _template(space: Space) -> dict[str, object]:
    spec = space.pod_manifest("ignored")["spec"]
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "service"}},
    }
    return {**spec, "restartPolicy": "Always", "topologySpreadConstraints": [spread]}


def _wait_on(space: Space, nodes: set[str]) -> None:
    def placed(item: object) -> bool:
        pods = [pod for pod in space.api.get("pod") if "deletionTimestamp" not in pod["metadata"]]
        running = [pod for pod in pods if pod["status"]["phase"] == "Running"]
        return len(running) == 2 and {pod["spec"]["nodeName"] for pod in running} == nodes

    space.api.wait("deployment", "service", placed, what=f"two pods on {', '.join(sorted(nodes))}")


def test_a_cordoned_node_takes_no_pod(space: Space, machines: Cluster) -> None:
    faults.cordon_node(machines.kubectl, "node-2")
    space.api.apply(space.pod_manifest("late", node="node-2"))
    space.api.wait("pod", "late", _unschedulable, what="the scheduler's refusal")
    faults.uncordon_node(machines.kubectl, "node-2")
    space.wait_phase("late", "Running")


def _unschedulable(item: dict[str, object]) -> bool:
    conditions = item.get("status", {}).get("conditions", [])  # type: ignore[attr-defined]
    return any(entry["type"] == "PodScheduled" and entry["reason"] == "Unschedulable" for entry in conditions)


def _address(space: Space, pod: str) -> str:
    return str(space.api.get("pod", pod)["status"]["podIP"])


def _serving(space: Space) -> str:
    """A pod on node-1 that serves half a megabyte, and its address; `client` on node-2 fetches it."""
    data = "mkdir /tmp/www; dd if=/dev/zero of=/tmp/www/data bs=1k count=512 2>/dev/null"
    serve = f"{data}; exec busybox httpd -f -p 8000 -h /tmp/www"
    space.start_pod("server", serve, node="node-1")
    space.start_pod("client", node="node-2")
    address = _address(space, "server")
    space.api.wait("pod", "server", lambda _: _fetch(space, address) is not None, what="the server's first answer")
    return address


def _fetch(space: Space, address: str) -> float | None:
    """Seconds to fetch the server's half megabyte, None if it did not come whole."""
    ask = f"printf 'GET /data HTTP/1.0\\r\\n\\r\\n' | nc {address} 8000 | wc -c"
    # By a clock in the pod: kubectl's own way there may take longer than the fetch.
    timed = f"read begun _ < /proc/uptime; size=$({ask}); read ended _ < /proc/uptime; echo $begun $size $ended"
    done = space.api.attempt("exec", "client", "--", "sh", "-c", timed)
    if done.returncode != 0:
        return None
    begun, size, ended = map(float, done.stdout.split())
    return ended - begun if size > 512 * 1024 else None


def test_a_slow_link_is_slow_and_a_steady_one_fast_again(space: Space, machines: Cluster) -> None:
    address = _serving(space)
    faults.slow_link(machines, "node-1", kilobits=1000)
    slow = _fetch(space, address)
    # 4 Mbit over 1 Mbit/s is 4 s whatever else the machine does; without the limit it is a few ms, and on a busy
    # machine now and then a stall.
    assert slow is not None and slow > 3.5
    faults.steady_link(machines, "node-1")

    def fast() -> bool:
        took = _fetch(space, address)
        return took is not None and took < 3.5

    wait_for(fast, what="a fetch faster than the slow link allows", timeout=60)


def test_a_lossy_link_loses_about_as_much_as_asked(space: Space, machines: Cluster) -> None:
    address = _serving(space)
    faults.lossy_link(machines, "node-1", percent=30)
    # A ping is lost if either way loses it: 1 - 0.7 * 0.7 = 51 %.
    assert 30 < _ping_loss(space, address) < 72
    faults.steady_link(machines, "node-1")
    assert _ping_loss(space, address) <= 5


def _ping_loss(space: Space, address: str) -> int:
    said = space.shell("client", f"ping -c 100 -i 0.02 -W 1 {address} || true")
    found = re.search(r"(\d+)% packet loss", said)
    assert found, said
    return int(found[1])


def test_delay_is_made_or_its_absence_said(space: Space, machines: Cluster) -> None:
    address = _serving(space)
    try:
        faults.delayed_link(machines, "node-1", milliseconds=100)
    except ClusterError as error:
        assert "no netem" in str(error)
        assert _ping_loss(space, address) <= 5  # and nothing was changed
        return
    said = space.shell("client", f"ping -c 5 {address}")
    least = re.search(r"min/avg/max = ([\d.]+)", said)
    assert least and float(least[1]) >= 200
