"""What is done to a run on the cluster, by name: each does its damage, and returns when training has gone on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import faults
from .cluster import Cluster
from .common import ClusterError
from .runs import Run


@dataclass(frozen=True)
class Processes:
    """Process ids, on this machine, of what runs in a worker's container."""

    agent: int
    """The first process: `cclm launch`."""
    ranks: list[int]
    """The training processes."""


def processes(run: Run, index: int) -> Processes:
    """Those of a worker. Raises ClusterError if it does not train."""
    uid = run.space.api.get("pod", run.pod(index))["metadata"]["uid"]
    parents: dict[int, int] = {}
    words: dict[int, list[str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if uid in (folder / "cgroup").read_text():
                number = int(folder.name)
                parents[number] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                words[number] = (folder / "cmdline").read_text().split("\0")
        except OSError:  # it has just ended
            continue
    agents = [number for number in words if "launch" in words[number] and parents[number] not in words]
    if len(agents) != 1:
        raise ClusterError(f"{run.pod(index)} has no launcher, or several: {words}")
    ranks = [number for number in words if parents[number] == agents[0] and "pretrain" in words[number]]
    return Processes(agents[0], ranks)


def kill_rank(run: Run, index: int) -> None:
    """SIGKILL to the training process of a worker."""
    for rank in processes(run, index).ranks:
        os.kill(rank, signal.SIGKILL)


def kill_agent(run: Run, index: int) -> None:
    """SIGKILL to the first process of a worker's pod, its launcher."""
    os.kill(processes(run, index).agent, signal.SIGKILL)


def delete_pod(run: Run, index: int) -> None:
    """Delete a worker's pod with its grace period."""
    faults.delete_pod(run.space.api, run.pod(index))


def delete_pod_by_force(run: Run, index: int) -> None:
    """Delete a worker's pod without grace."""
    faults.delete_pod(run.space.api, run.pod(index), grace_seconds=0)


def evict_pod(run: Run, index: int) -> None:
    """Evict a worker's pod, as an autoscaler does."""
    faults.evict_pod(run.space.api, run.pod(index))


def oom_kill(run: Run, index: int) -> None:
    """Eat the memory of a worker's container."""
    faults.oom_kill_pod(run.space.api, run.pod(index))


def drain(run: Run, index: int) -> None:
    """Drain the node of a worker, as before maintenance."""
    faults.drain_node(run.space.api, run.node_of(index))


ON_A_WORKER: dict[str, Callable[[Run, int], None]] = {
    "rank killed": kill_rank,
    "agent killed": kill_agent,
    "pod deleted": delete_pod,
    "pod deleted by force": delete_pod_by_force,
    "pod evicted": evict_pod,
    "out of memory": oom_kill,
    "node drained": drain,
}
"""Faults that leave every machine running, so that the run comes back to its full size by itself."""


def break_worker(run: Run, name: str, index: int, world: int) -> None:
    """One fault of `ON_A_WORKER`, until as many processes train as before."""
    with run.fault(f"{name} (worker-{index})", world):
        ON_A_WORKER[name](run, index)
    for machine in _cordoned(run):
        faults.uncordon_node(run.space.api, machine)


def _cordoned(run: Run) -> list[str]:
    return [str(node["metadata"]["name"]) for node in run.space.api.get("node") if node["spec"].get("unschedulable")]


def lose_node(run: Run, machines: Cluster, index: int, world: int) -> str:
    """Cut the power of a worker's node, until `world` processes train; the node."""
    node = run.node_of(index)
    with run.fault(f"node killed (worker-{index})", world):
        faults.kill_node(machines, node)
    return node
