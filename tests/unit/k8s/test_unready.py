"""Which pods of dead nodes are cleared: only those of our jobs, only for good, and not where everything looks dead."""

from datetime import UTC, datetime
from typing import Any

import pytest

from k8s.unready import decide, is_lost
from tests.unit.k8s.lost_nodes import IN_A_MINUTE, JUST_NOW, OURS, node, pod

TODAY = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)

DEAD = node("a", "Unknown")
CLUSTER = [DEAD, node("b"), node("c")]


def cleared(nodes: list[dict[str, Any]], pods: list[dict[str, Any]], seen_for: float = 60) -> list[str]:
    """Names of the pods that are cleared when all lost nodes have been seen for so long."""
    unready = {item["metadata"]["uid"]: 1000 - seen_for for item in nodes}
    return [stuck.name for stuck in decide(nodes, pods, unready, 1000, TODAY, 60).stuck]


def test_a_pod_of_a_dead_node() -> None:
    decision = decide(CLUSTER, [pod("run7-worker-0", "a")], {"uid-a": 927.0}, 1000, TODAY, 60)
    (stuck,) = decision.stuck
    assert (stuck.namespace, stuck.name, stuck.uid) == ("team", "run7-worker-0", "uid-run7-worker-0")
    assert (stuck.job, stuck.node, stuck.seconds) == ("run7", "a", 73.0)
    assert stuck.owner is not None and stuck.owner["kind"] == "PyTorchJob"


@pytest.mark.parametrize(
    "other",
    [
        pod("on a good node", "b"),
        pod("that nobody has deleted", "a", deleted=None),
        pod("of another project", "a", {"training.kubeflow.org/job-name": "theirs"}),
        pod("of no job", "a", {"app.kubernetes.io/part-of": "cclm"}),
        {"metadata": {"name": "not placed", "uid": "x", "labels": OURS}, "spec": {}},
    ],
    ids=lambda item: item["metadata"]["name"],
)
def test_others_are_left_alone(other: dict[str, Any]) -> None:
    assert cleared(CLUSTER, [other, pod("run7-worker-0", "a")]) == ["run7-worker-0"]


def test_a_train_job() -> None:
    labels = {"app.kubernetes.io/part-of": "cclm", "jobset.sigs.k8s.io/jobset-name": "run8"}
    assert cleared(CLUSTER, [pod("run8-node-0-0", "a", labels)]) == ["run8-node-0-0"]


def test_a_node_is_watched_for_some_time() -> None:
    """It counts from the first look that found the node lost, and a node that was back in between counts anew."""
    pods, unready = [pod("run7-worker-0", "a")], {}
    for now, state, expected in [
        (0.0, "Unknown", 0), (30.0, "Unknown", 0), (59.9, "Unknown", 0), (60.0, "Unknown", 1), (65.0, "True", 0),
        (70.0, "Unknown", 0), (129.0, "Unknown", 0), (130.0, "Unknown", 1),
    ]:  # fmt: skip
        decision = decide([node("a", state), *CLUSTER[1:]], pods, unready, now, TODAY, 60)
        assert len(decision.stuck) == expected, now
        unready = dict(decision.unready)


def test_a_node_of_the_same_name_is_another_one() -> None:
    fresh = {**DEAD, "metadata": {"name": "a", "uid": "uid-of-a-new-machine"}}
    decision = decide([fresh, *CLUSTER[1:]], [pod("run7-worker-0", "a")], {"uid-a": 0.0}, 1000, TODAY, 60)
    assert decision.stuck == () and decision.unready == {"uid-of-a-new-machine": 1000}


@pytest.mark.parametrize(("lost", "is_cleared"), [(1, True), (2, True), (3, False), (4, False)])
def test_when_most_nodes_look_dead_nothing_is_cleared(lost: int, is_cleared: bool) -> None:
    nodes = [node(f"n{i}", "Unknown" if i < lost else "True") for i in range(4)]
    assert bool(cleared(nodes, [pod("run7-worker-0", "n0")])) == is_cleared
    reason = decide(nodes, [], {}, 0, TODAY, 60).reason_to_wait
    assert reason == (
        ""
        if is_cleared
        else f"{lost} of 4 nodes are not ready, so the control plane may be cut off; nothing is cleared"
    )


def test_a_kubelet_that_speaks_gets_the_grace_period() -> None:
    """Its runtime may be broken, and then the pod does not end; but it may also be saving."""
    nodes = [node("a", "False"), *CLUSTER[1:]]
    assert cleared(nodes, [pod("run7-worker-0", "a", deleted=IN_A_MINUTE)]) == []
    assert cleared(nodes, [pod("run7-worker-0", "a", deleted=JUST_NOW)]) == ["run7-worker-0"]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (node("a"), False),
        (node("a", "Unknown"), True),
        (node("a", "False"), True),
        (node("a", "True", taint="unreachable"), False),  # it is just back
        (node("a", "Unknown", taint="unreachable", effect="NoSchedule"), False),  # the cluster does not evict yet
        (node("a", taint="unschedulable", effect="NoSchedule"), False),
        ({"metadata": {"name": "a"}, "spec": {}}, False),  # it has just been made
    ],
)
def test_what_is_lost(item: dict[str, Any], expected: bool) -> None:
    assert is_lost(item) == expected
