"""Runs of cclm that lose ranks, pods and nodes, grow and shrink: they go on, and end as if nothing had happened."""

from __future__ import annotations

import random

import pytest

from tests.cluster import run_faults, runs
from tests.cluster.cluster import Cluster
from tests.cluster.run_faults import check_end
from tests.cluster.runs import Workbench
from tests.cluster.space import Space

pytestmark = pytest.mark.cluster

STEPS = 1500
"""So many that the faults are over before the run is: it trains on while a pod that it lacks is slow to start."""
PLAN = [
    ("rank killed", 0),
    ("agent killed", 1),
    ("pod deleted by force", 0),
    ("pod deleted", 1),
    ("out of memory", 0),
    ("node drained", 0),  # which evicts its pods
]
"""Faults with the index of the worker that each is done to."""
STEPS_OF_A_FAULT = 40
"""More than a run makes from a random fault to the next."""


def test_a_run_goes_on_after_each_fault(
    space: Space, machines: Cluster, bench: Workbench, pytestconfig: pytest.Config
) -> None:
    """Each fault in turn on one run: on processes and pods, on its size, on its nodes.

    At last the power of worker-0's node is cut, and never comes back. `--soak N` adds N faults, each at a random worker
    and a random step.
    """
    more = pytestconfig.getoption("--soak") or 0
    seed = random.randrange(1000)
    chance = random.Random(seed)
    plan = [(name, index, 0) for name, index in PLAN]
    for _ in range(more):
        name = chance.choice(list(run_faults.ON_A_WORKER))
        plan.append((name, chance.randrange(2), chance.randrange(STEPS_OF_A_FAULT // 2)))
    print(f"seed {seed}; fault, worker, and steps until then: {plan}")
    run = runs.start(space, bench, nodes="1:3x1", steps=STEPS + STEPS_OF_A_FAULT * more)
    with run:
        run.wait_world(3)
        run_faults.scale(run, 2)
        for name, index, steps in plan:
            run.wait_step(run.progress.step + steps)
            run_faults.break_worker(run, name, index, world=2)
        for size in (3, 1, 2):
            run_faults.scale(run, size)
        run_faults.part_workers(run)
        run_faults.cut_off_node(run, machines, 0)
        run_faults.part_workers(run)
        run_faults.lose_node(run, machines, 0, world=1)
        check_end(run, pytestconfig.rootpath)
