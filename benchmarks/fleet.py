"""How long `torchx list` and `torchx status` take in a cluster of 200 nodes and 50 jobs.

    python -m tests.cluster --name bench up --nodes 3 --with training-operator kwok
    python -m benchmarks.fleet --cluster bench

The nodes and the pods on them are kwok's. For each command it prints the requests to the API server, wall-clock time of
the whole command (median and slowest), CPU time of its process, and how much of the wall-clock time goes to asking
the API server and reading its answers; the rest is start-up. The API server runs on the same machine and counts
in the wall-clock time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.faults import namespace
from k8s.client import connect
from k8s.scheduler import KubernetesScheduler
from tests.cluster.cluster import Cluster
from tests.cluster.fleet import TOO_LARGE, counter, fleet
from tests.cluster.kubectl import kubeconfig_environment
from tests.cluster.space import Space
from tests.cluster.talkers import torchx


class Command(NamedTuple):
    """A command of torchx, and what of the scheduler it calls."""

    name: str
    words: list[str]
    job: str | None
    """The application's id that it describes; None: it lists all."""


class Duration(NamedTuple):
    """Seconds of one command."""

    wall: float
    cpu: float


def measure(space: Space, command: Command) -> Duration:
    """Run a command once. Raises RuntimeError if it fails."""
    before, began = os.times(), time.perf_counter()
    done = torchx(space, *command.words)
    wall, after = time.perf_counter() - began, os.times()
    if done.code != 0:
        raise RuntimeError(f"torchx {' '.join(command.words)} failed: {done.err}")
    return Duration(wall, after.children_user + after.children_system - before.children_user - before.children_system)


def measure_asking(command: Command) -> float:
    """Seconds for the same in this process, which has imported everything, over a new connection."""
    began = time.perf_counter()
    scheduler = KubernetesScheduler("torchx", connect)
    if command.job is None:
        scheduler.list()
    else:
        scheduler.describe(command.job)
    return time.perf_counter() - began


def main() -> None:
    """Measure on the cluster that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster", required=True, help="name of a cluster of tests/cluster that is up")
    parser.add_argument("--rounds", type=int, default=10, help="times of each command (default %(default)s)")
    chosen = parser.parse_args()
    cluster = Cluster(chosen.cluster)
    if not cluster.up_now:
        parser.error(f"the cluster {chosen.cluster} is not up")
    os.environ.update(kubeconfig_environment(cluster.kubeconfig))
    print(f"{'':24}{'requests':>9}{'wall, median':>14}{'slowest':>9}{'CPU, median':>13}{'asking, median':>16}")
    with tempfile.TemporaryDirectory() as folder, namespace(cluster, "fleet") as space, fleet(space):
        jobs = {"status, it runs": f"{space.name}:job-1", "status, no room": f"{space.name}:{TOO_LARGE}"}
        commands = [Command("list", ["list", "-s", "kubernetes"], None)]
        commands += [Command(name, ["status", f"kubernetes://torchx/{job}"], job) for name, job in jobs.items()]
        for command in commands:
            with counter(space.api, Path(folder)) as counted:
                torchx(space, *command.words, KUBECONFIG=str(counted.kubeconfig))
                requests = len(counted.requests())
            measure_asking(command)  # the client library is imported
            found = [measure(space, command) for _ in range(chosen.rounds)]
            asking = statistics.median(measure_asking(command) for _ in range(chosen.rounds))
            walls, cpu = [each.wall for each in found], statistics.median(each.cpu for each in found)
            print(
                f"torchx {command.name:17}{requests:9}{statistics.median(walls):12.2f} s{max(walls):7.2f} s"
                f"{cpu:11.2f} s{asking:14.2f} s"
            )


if __name__ == "__main__":
    main()
