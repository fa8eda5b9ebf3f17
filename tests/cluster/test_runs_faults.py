"""Runs of cclm that lose ranks, pods and nodes: they go on, and end as if nothing had happened."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.cluster import faults, run_faults, runs
from tests.cluster.cluster import Cluster
from tests.cluster.demo_run import WARM
from tests.cluster.runs import Run, Workbench
from tests.cluster.space import Space

pytestmark = pytest.mark.cluster

STEPS = 400
"""So many that the faults are over before the run is, on a fast machine, too."""
RECORD = Path("build") / "faults.jsonl"
"""What was done to the runs, and how long they stood still; under the project's root."""


def _check(run: Run, pytestconfig: pytest.Config) -> None:
    """The run has ended as one that nobody disturbed."""
    expected = run.bench.undisturbed(run.steps)
    assert run.wait_end() == "Succeeded", run.why()
    run.keep(pytestconfig.rootpath / RECORD)
    wanted, found = expected.losses(), run.losses()
    assert sorted(found) == list(range(1, run.steps + 1))
    for step in (run.steps // 2, run.steps):
        for name in {"images/loss_itc", "texts/loss_ttc"} & wanted[step].keys():
            assert found[step][name] == pytest.approx(wanted[step][name], rel=1e-4), (step, run.faults)
    audit = run.audit()
    assert audit.code == 0, audit.err
    whole = [line for line in audit.out.splitlines()[1:] if line.strip() and "not finished" not in line]
    assert len(whole) > 10 and all(line.endswith("each once") for line in whole), audit.out
    assert all(fault["attempts"] <= 2 for fault in run.faults), run.faults


def test_a_run_goes_on_after_each_fault(
    space: Space, machines: Cluster, bench: Workbench, pytestconfig: pytest.Config
) -> None:
    """Each fault in turn on one run, and at last the power of worker-0's node, which never comes back."""
    more = pytestconfig.getoption("--soak") or 0
    seed = random.randrange(1000)
    chance = random.Random(seed)
    plan = [
        ("rank killed", 0),
        ("agent killed", 1),
        ("pod deleted by force", 0),
        ("pod evicted", 1),
        ("node drained", 0),
    ]
    plan += [(chance.choice(list(run_faults.ON_A_WORKER)), chance.randrange(2)) for _ in range(more)]
    print(f"seed {seed}, plan {plan}")
    run = runs.start(space, bench, nodes="1:2x1", steps=STEPS + 40 * more)
    with run:
        run.wait_step(WARM)
        for name, index in plan:
            run_faults.break_worker(run, name, index, world=2)
        while run.node_of(0) == run.node_of(1):  # with two nodes, the drain has left both on one
            run_faults.break_worker(run, "pod deleted", 1, world=2)
        run_faults.lose_node(run, machines, 0, world=1)
        _check(run, pytestconfig)


@pytest.mark.usefixtures("soak")
def test_a_node_that_is_cut_off_and_goes_on_harms_nothing(
    space: Space, machines: Cluster, bench: Workbench, pytestconfig: pytest.Config
) -> None:
    run = runs.start(space, bench, nodes="1:2x1", steps=STEPS)
    with run:
        run.wait_step(WARM)
        node = run.node_of(0)
        with run.fault("node cut off (worker-0)", world=1):
            faults.cut_node(machines, node)
        with run.fault("node back", world=2):
            faults.rejoin_node(machines, node)
        _check(run, pytestconfig)


@pytest.mark.usefixtures("soak")
def test_a_run_grows_and_shrinks(space: Space, bench: Workbench, pytestconfig: pytest.Config) -> None:
    """2 -> 3 -> 1 -> 2 pods."""
    run = runs.start(space, bench, nodes="1:3x1", steps=STEPS)
    with run:
        run.wait_world(3)
        for replicas in (2, 3, 1, 2):
            with run.fault(f"scaled to {replicas}", world=replicas):
                space.api("scale", "pytorchjob", run.name, f"--replicas={replicas}")
        _check(run, pytestconfig)
