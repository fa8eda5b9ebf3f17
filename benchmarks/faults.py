"""How long a run on Kubernetes stands still after each kind of fault, beside a stock job.

    python -m benchmarks.faults --rounds 3

It brings up a cluster of three nodes, measures, and takes the cluster down; `--cluster NAME` names one that is up. A
run of the demo world on two pods is started by `torchx run`, and each fault is done to each of its pods in turn. The
time is the longest one without a step that was never made before, from the fault until the run has its full size again.
At the end of a round the power of worker-0's node is cut, and the run goes on with one pod.

The stock job is the one of tests/cluster/jobs.py: torchrun under the operator, with `restartPolicy: ExitCode`. It has
no checkpoints, so the time is the longest one without any step. Each fault gets a new job, since many faults end it.
"never" means that the job has failed, or has made no step within 400 s.

Each fault of a run is a line of build/faults.jsonl, too. The machine's own load counts: starting Python and PyTorch is
most of each time.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.cluster import addons, faults, run_faults, runs
from tests.cluster.cluster import Cluster, build_core
from tests.cluster.common import ClusterError, wait_for
from tests.cluster.demo_run import WARM
from tests.cluster.jobs import JOB_LABEL, stock_job, wait_step
from tests.cluster.kubectl import condition
from tests.cluster.runs import Run, Workbench
from tests.cluster.space import Space
from tests.cluster.stores import ClusterS3

ROOT = Path(__file__).parents[1]
NEVER = float("inf")
OPTIONS = ["training-operator"]
WORKERS = 2
BOUND, BOUND_OF_NODES = 30, 150
"""Seconds within which training is to go on after a rank, agent or pod is lost, and after a node is."""
STARTS = 3
"""How often a stock job is started until it trains."""
NODE_KILLED = "node killed"
STOCK: dict[str, Callable[[Space, str], None]] = {
    "rank killed": lambda space, pod: run_faults.kill_in_pod(space, pod, "allreduce.py", but="torch.distributed.run"),
    "agent killed": lambda space, pod: run_faults.kill_in_pod(space, pod, "torch.distributed.run"),
    "pod deleted": lambda space, pod: faults.delete_pod(space.api, pod),
    "pod deleted by force": lambda space, pod: faults.delete_pod(space.api, pod, grace_seconds=0),
    "pod evicted": lambda space, pod: faults.evict_pod(space.api, pod),
}
Times = dict[str, list[float]]
"""Fault, with the worker, to its times, seconds."""


@contextlib.contextmanager
def namespace(cluster: Cluster, name: str) -> Iterator[Space]:
    """A namespace that is removed at the end."""
    space = Space(cluster.kubectl.within(f"{name}-{random.randrange(10**6)}"), cluster)
    space.create()
    try:
        yield space
    finally:
        space.remove()


@contextlib.contextmanager
def workbench(cluster: Cluster) -> Iterator[Workbench]:
    """A store in the cluster's network, with the demo world in it."""
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / name for name in ("store", "bench")]
        for place in places:
            place.mkdir()
        store = ClusterS3(cluster, places[0])
        store.create()
        try:
            yield Workbench.make(store, places[1])
        finally:
            store.kill()


def measure_ours(cluster: Cluster, rounds: int, names: Sequence[str], found: Times) -> None:
    """Break runs of cclm, one a round, and note the times in `found`."""
    with workbench(cluster) as bench:
        for _ in range(rounds):
            with namespace(cluster, "faults") as space, runs.start(space, bench, nodes="1:2x1", steps=10**6) as run:
                try:
                    run.wait_world(WORKERS)
                    run.wait_step(WARM)
                    _break(run, cluster, names)
                finally:
                    run.keep(ROOT / "build" / "faults.jsonl")
                    for fault in run.faults:
                        found[str(fault["fault"])].append(float(fault["standstill_seconds"]))
            faults.repair(cluster)


def _break(run: Run, cluster: Cluster, names: Sequence[str]) -> None:
    """Do each fault to each worker of a run; worker-0's node is dead afterwards."""
    for name in names:
        for index in range(WORKERS):
            run_faults.break_worker(run, name, index, world=WORKERS)
            print(run.faults[-1], flush=True)
    for size in (1, WORKERS):
        run_faults.scale(run, size)
        print(run.faults[-1], flush=True)
    run_faults.part_workers(run)
    run_faults.cut_off_node(run, cluster, 0)
    print(*run.faults[-2:], sep="\n", flush=True)
    run_faults.part_workers(run)
    run_faults.lose_node(run, cluster, 0, world=1)
    print(run.faults[-1], flush=True)


def measure_stock(cluster: Cluster, rounds: int, found: Times) -> None:
    """Break stock jobs, one for each fault, and note the times in `found`."""
    for _ in range(rounds):
        for name, break_pod in STOCK.items():
            for index in range(WORKERS):
                with _stock(cluster) as space:
                    began = datetime.datetime.now(datetime.UTC)
                    break_pod(space, f"stock-worker-{index}")
                    _note(found, f"{name} (worker-{index})", _stock_standstill(space, began, world=WORKERS))
        with _stock(cluster) as space:
            began = datetime.datetime.now(datetime.UTC)
            faults.kill_node(cluster, space.api.get("pod", "stock-worker-0")["spec"]["nodeName"])
            _note(found, f"{NODE_KILLED} (worker-0)", _stock_standstill(space, began, world=1))
        faults.repair(cluster)


@contextlib.contextmanager
def _stock(cluster: Cluster) -> Iterator[Space]:
    """The stock job, which trains with all workers.

    On a busy machine its pods may miss each other at the start, which ends a stock job. That is not what is measured,
    so it is started again.
    """
    for attempt in range(1, STARTS + 1):
        with namespace(cluster, "stock") as space:
            space.api.apply(stock_job("stock", steps=10**6, seconds=0.2))
            try:
                wait_step(space.api, "stock-worker-0", 5, world=WORKERS)
            except ClusterError:
                if attempt == STARTS:
                    raise
                continue
            yield space
            return


def _note(found: Times, fault: str, seconds: float) -> None:
    found[fault].append(seconds)
    print("stock", fault, seconds, flush=True)


def _stock_standstill(space: Space, began: datetime.datetime, world: int) -> float:
    """The longest time without a step since the fault, once there was one of 3 s, and steps of `world` after it."""

    def measured() -> float | None:
        if condition(space.api.get("pytorchjob", "stock"), "Failed"):
            return NEVER
        moments = [began]
        for pod in space.api.get("pod", None, "-l", f"{JOB_LABEL}=stock"):
            log = space.api.attempt("logs", pod["metadata"]["name"], "--timestamps", f"--since-time={began:%FT%TZ}")
            moments += [
                datetime.datetime.fromisoformat(line.split()[0])
                for line in log.stdout.splitlines()
                if f"world={world}" in line
            ]
        moments = sorted(moment for moment in moments if moment >= began)
        gaps = [(after - before).total_seconds() for before, after in zip(moments, moments[1:], strict=False)]
        return max(gaps) if gaps and max(gaps) > 3 and gaps[-1] < 3 else None

    try:
        return float(wait_for(measured, what="steps after the fault", timeout=400, every=1))
    except ClusterError:
        return NEVER


def table(ours: Times, stock: Times) -> str:
    """Each fault with its counts, medians, worst cases, and whether the worst one is within the bound."""
    lines = [
        f"{'':<32}{'cclm':>5} {'median':>8} {'worst':>8}  {'bound':>6}         {'stock':>5} {'median':>8} {'worst':>8}"
    ]
    for name in dict.fromkeys([*ours, *stock]):
        bound = BOUND_OF_NODES if name.startswith((NODE_KILLED, "node cut off")) else BOUND
        verdict = f"{bound:>4} s  {'kept' if max(ours[name]) <= bound else 'MISSED':<7}" if ours.get(name) else " " * 15
        lines.append(f"{name:<32}{_in_words(ours.get(name))}  {verdict} {_in_words(stock.get(name))}".rstrip())
    return "\n".join(lines)


def _in_words(times: Sequence[float] | None) -> str:
    """Count, median and worst case in the columns of the table."""
    if not times:
        return f"{'-':>5}{'':>18}"
    words = ["never" if value == NEVER else f"{value:.0f} s" for value in (statistics.median(times), max(times))]
    return f"{len(times):>5} {words[0]:>8} {words[1]:>8}"


@contextlib.contextmanager
def _cluster_for(name: str | None) -> Iterator[Cluster]:
    """The cluster of this name, which is up; without a name, one of three nodes that ends with the block."""
    cluster = Cluster(name or f"faults-{os.getpid()}")
    if name is not None:
        yield cluster
        return
    try:
        build_core()
        addons.build(OPTIONS)
        cluster.up(nodes=3)
        addons.install(cluster, OPTIONS)
        yield cluster
    finally:
        cluster.down()


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster", help="name of a cluster that is up, with three nodes (default: a new one)")
    parser.add_argument("--rounds", type=int, default=1, help="runs of cclm; 0: none (default %(default)s)")
    parser.add_argument("--stock-rounds", type=int, default=1, help="the same for stock jobs (default %(default)s)")
    parser.add_argument("--faults", default=",".join(run_faults.ON_A_WORKER), help="which ones, separated by commas")
    chosen = parser.parse_args()
    names = chosen.faults.split(",")
    if unknown := [name for name in names if name not in run_faults.ON_A_WORKER]:
        parser.error(f"{unknown[0]!r} is unknown; known are {', '.join(run_faults.ON_A_WORKER)}")
    if chosen.cluster is not None and not Cluster(chosen.cluster).up_now:
        parser.error(f"the cluster {chosen.cluster} is not up")
    began = time.monotonic()
    ours: Times = defaultdict(list)
    stock: Times = defaultdict(list)
    try:
        with _cluster_for(chosen.cluster) as cluster:
            measure_ours(cluster, chosen.rounds, names, ours)
            measure_stock(cluster, chosen.stock_rounds, stock)
    finally:  # what was measured until an error or an interrupt is shown all the same
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        print(f"\n{table(ours, stock)}\n\nmeasured in {time.monotonic() - began:.0f} s; load of the machine: {load}")


if __name__ == "__main__":
    main()
