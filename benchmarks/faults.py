"""How long a run on Kubernetes stands still after each kind of fault, and how long a stock job does.

    python -m tests.cluster --name bench up --nodes 3 --with training-operator
    python -m benchmarks.faults --cluster bench --rounds 3
    python -m benchmarks.faults --cluster bench --stock        the same for torchrun under the operator

A run of the demo world on two pods is started by `torchx run`, and each fault is done to it in turn, at random workers.
The time is the longest one without a step that was never made before, from the fault until the run has its full size
again. The stock job is the one of tests/cluster/jobs.py, with `restartPolicy: ExitCode`. It has no checkpoints, so the
time is the longest one without any step; "never" means that the job has failed.

Each fault is a line of build/faults.jsonl, too. The machine's own load counts: starting Python and PyTorch is most of
each time.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.cluster import faults, run_faults, runs
from tests.cluster.cluster import Cluster
from tests.cluster.common import ClusterError, wait_for
from tests.cluster.demo_run import WARM
from tests.cluster.jobs import JOB_LABEL, stock_job, wait_step
from tests.cluster.kubectl import condition
from tests.cluster.runs import Workbench
from tests.cluster.space import Space
from tests.cluster.stores import ClusterS3

ROOT = Path(__file__).parents[1]
NEVER = float("inf")
STOCK: dict[str, Callable[[Space, str], None]] = {
    "pod deleted": lambda space, pod: faults.delete_pod(space.api, pod),
    "pod deleted by force": lambda space, pod: faults.delete_pod(space.api, pod, grace_seconds=0),
    "pod evicted": lambda space, pod: faults.evict_pod(space.api, pod),
    "rank killed": lambda space, pod: run_faults.kill_in_pod(space, pod, "allreduce.py", but="torch.distributed.run"),
    "agent killed": lambda space, pod: run_faults.kill_in_pod(space, pod, "torch.distributed.run"),
}


@contextlib.contextmanager
def namespace(cluster: Cluster, name: str) -> Iterator[Space]:
    """A namespace that is removed at the end."""
    space = Space(cluster.kubectl.within(f"{name}-{random.randrange(10**6)}"), cluster)
    space.create()
    try:
        yield space
    finally:
        space.remove()


def measure_ours(cluster: Cluster, rounds: int, names: list[str]) -> dict[str, list[float]]:
    """Fault to its times, seconds; the node of worker-0 is killed at the end of each round."""
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / name for name in ("store", "bench")]
        for place in places:
            place.mkdir()
        store = ClusterS3(cluster, places[0])
        store.create()
        try:
            bench = Workbench.make(store, places[1])
            for _ in range(rounds):
                with namespace(cluster, "faults") as space, runs.start(space, bench, nodes="1:2x1", steps=10**6) as run:
                    run.wait_step(WARM)
                    for name in names:
                        run_faults.break_worker(run, name, random.randrange(2), world=2)
                        print(run.faults[-1], flush=True)
                    while run.node_of(0) == run.node_of(1):
                        run_faults.break_worker(run, "pod deleted", 1, world=2)
                    run_faults.lose_node(run, cluster, 0, world=1)
                    print(run.faults[-1], flush=True)
                    run.keep(ROOT / "build" / "faults.jsonl")
                    for fault in run.faults:
                        found[str(fault["fault"])].append(float(fault["standstill_seconds"]))
                faults.repair(cluster)
        finally:
            store.kill()
    return found


def measure_stock(cluster: Cluster, rounds: int) -> dict[str, list[float]]:
    """Fault to its times, seconds, for a job of torchrun; one job a fault, since many end it."""
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, break_pod in STOCK.items():
            for index in range(2):
                with namespace(cluster, "stock") as space:
                    space.api.apply(stock_job("stock", steps=10**6, seconds=0.2))
                    wait_step(space.api, "stock-worker-0", 5, world=2)
                    began = datetime.datetime.now(datetime.UTC)
                    break_pod(space, f"stock-worker-{index}")
                    found[f"{name} (worker-{index})"].append(_stock_standstill(space, began))
                    print(name, index, found[f"{name} (worker-{index})"][-1], flush=True)
    return found


def _stock_standstill(space: Space, began: datetime.datetime) -> float:
    """The longest time without a step since the fault, once there was one of 3 s and steps after it."""

    def measured() -> float | None:
        if condition(space.api.get("pytorchjob", "stock"), "Failed"):
            return NEVER
        moments = [began]
        for pod in space.api.get("pod", None, "-l", f"{JOB_LABEL}=stock"):
            log = space.api.attempt("logs", pod["metadata"]["name"], "--timestamps", f"--since-time={began:%FT%TZ}")
            moments += [
                datetime.datetime.fromisoformat(line.split()[0])
                for line in log.stdout.splitlines()
                if "world=2" in line
            ]
        moments = sorted(moment for moment in moments if moment >= began)
        gaps = [(after - before).total_seconds() for before, after in zip(moments, moments[1:], strict=False)]
        return max(gaps) if gaps and max(gaps) > 3 and gaps[-1] < 3 else None

    try:
        return float(wait_for(measured, what="steps after the fault", timeout=400, every=1))
    except ClusterError:
        return NEVER


def show(found: dict[str, list[float]]) -> None:
    """Print a table of medians and worst cases."""
    print(f"\n{'fault':<36} {'times':>5} {'median':>8} {'worst':>8}")
    for name, times in sorted(found.items()):
        words = ["never" if value == NEVER else f"{value:.0f} s" for value in (statistics.median(times), max(times))]
        print(f"{name:<36} {len(times):>5} {words[0]:>8} {words[1]:>8}")


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description="times to recover from faults on a cluster of tests/cluster")
    parser.add_argument("--cluster", required=True, help="name of a cluster that is up, with three nodes")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--faults", default=",".join(run_faults.ON_A_WORKER), help="which ones, separated by commas")
    parser.add_argument("--stock", action="store_true", help="measure the stock job instead")
    chosen = parser.parse_args()
    names = chosen.faults.split(",")
    if unknown := [name for name in names if name not in run_faults.ON_A_WORKER]:
        parser.error(f"{unknown[0]!r} is unknown; known are {', '.join(run_faults.ON_A_WORKER)}")
    cluster = Cluster(chosen.cluster)
    if not cluster.up_now:
        parser.error(f"the cluster {chosen.cluster} is not up")
    started = time.monotonic()
    show(measure_stock(cluster, chosen.rounds) if chosen.stock else measure_ours(cluster, chosen.rounds, names))
    print(f"\nmeasured in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
