"""Runs in a queue of Kueue with quota for one: the second waits and says so, and an urgent one goes first."""

from __future__ import annotations

import signal

import pytest

from tests.cluster import queues, run_faults, runs
from tests.cluster.common import ClusterError, wait_for
from tests.cluster.demo_run import SAVE_EVERY
from tests.cluster.runs import Workbench
from tests.cluster.space import Space

pytestmark = pytest.mark.cluster

_PODS = 2


def _hold_at_start(run: runs.Run) -> list[int]:
    """Stop the training processes of a run as soon as each of its pods has one, while they load; which they are."""

    def started() -> bool:
        try:
            return all(run_faults.processes(run, index).ranks for index in range(_PODS))
        except ClusterError:  # a pod has no launcher yet
            return False

    wait_for(started, what=f"training processes of {run.name}", timeout=240, every=0.2)
    return run_faults.hold(run, _PODS)


def test_one_run_waits_and_one_is_preempted_and_goes_on_from_its_checkpoint(space: Space, bench: Workbench) -> None:
    space.need("training-operator", "kueue")
    with queues.queue(space, cpu=str(_PODS), memory="100Gi") as line:

        def start(name: str, steps: int, *options: str) -> runs.Run:
            chosen = [f"queue={line}", *options]
            return runs.start(space, bench, nodes=f"{_PODS}x1", steps=steps, name=name, options=chosen)

        with start("first", 300) as first:
            first.wait_step(SAVE_EVERY + 1)
            ranks = run_faults.hold(first, _PODS)  # it must not be over before it is thrown out
            with start("second", 20) as second:
                queues.wait_workload(space, second.name, "QuotaReserved", "False")

                def waits() -> bool:
                    told = bench.torchx(space, "status", second.handle).out
                    return "State: PENDING" in told and "place 1 of 1 of queue" in told.replace("\n", " ")

                wait_for(waits, what="the second run's place in the queue", timeout=120, every=0.5)
                assert not second.pods()

                with start("urgent", 20, f"kueue_priority={queues.urgent(space)}") as urgent:
                    run_faults.send(ranks, signal.SIGCONT)
                    assert queues.wait_workload(space, first.name, "Evicted")["reason"] == "Preempted"
                    ranks = _hold_at_start(urgent)  # it must not be over before the first run is looked at
                    wait_for(lambda: not first.pods(), what="the end of the pods of first", timeout=120, every=1)
                    saved = first.stored_step()
                    evicted = bench.torchx(space, "status", first.handle).out
                    assert "State: PENDING" in evicted and "preempted" in evicted.lower(), evicted
                    run_faults.send(ranks, signal.SIGCONT)
                    assert urgent.wait_end() == "Succeeded"
                assert second.wait_end() == "Succeeded"
            assert first.wait_end() == "Succeeded"
        log = first.log()
        assert f"resuming after step {saved}" in log, log[:2000]
        assert sorted(first.losses()) == list(range(1, first.steps + 1))
        assert first.audit().code == 0
