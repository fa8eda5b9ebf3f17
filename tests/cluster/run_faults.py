"""What is done to a run on the cluster, by name: each does its damage, and returns when training has gone on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cclm import storage
from cclm.checkpoints.commit import verify, whole_manifest
from cclm.checkpoints.manifest import folder_name
from cclm.checkpoints.retention import checkpoint_steps
from tests.stores.store import environment

from . import faults
from .cluster import Cluster
from .common import ClusterError
from .runs import Run
from .space import Space

RECORD = Path("build") / "faults.jsonl"
"""What was done to runs, and how long they stood still; under the project's root."""


@dataclass(frozen=True)
class Processes:
    """Process ids, on this machine, of what runs in a worker's container."""

    agent: int
    """The first process: `cclm launch`."""
    ranks: list[int]
    """The training processes."""


@dataclass(frozen=True)
class _Process:
    number: int
    parent: int
    words: list[str]


def _in_pod(space: Space, pod: str) -> list[_Process]:
    """What runs in a pod, with the numbers that it has on this machine. Raises ClusterError if there is no such pod."""
    item = space.api.get("pod", pod)
    if item is None:
        raise ClusterError(f"there is no pod {pod}")
    uid = item["metadata"]["uid"]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if uid in (folder / "cgroup").read_text():
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                found.append(_Process(int(folder.name), parent, (folder / "cmdline").read_text().split("\0")))
        except OSError:  # it has just ended
            continue
    return found


def processes(run: Run, index: int) -> Processes:
    """Those of a worker. Raises ClusterError if no launcher runs there."""
    running = _in_pod(run.space, run.pod(index))
    numbers = {process.number for process in running}
    agents = [item.number for item in running if "launch" in item.words and item.parent not in numbers]
    if len(agents) != 1:
        raise ClusterError(f"{run.pod(index)} has no launcher: {running}")
    return Processes(
        agents[0], [item.number for item in running if item.parent == agents[0] and "pretrain" in item.words]
    )


def kill_in_pod(space: Space, pod: str, word: str, but: str | None = None) -> None:
    """SIGKILL to every process of a pod with a word in its command, unless that has another word, too."""
    for process in _in_pod(space, pod):
        if any(part.endswith(word) for part in process.words) and (but is None or but not in process.words):
            os.kill(process.number, signal.SIGKILL)


def hold(run: Run, workers: int) -> list[int]:
    """Stop the training processes of so many workers, so that the run is not over before they go on; which they are."""
    ranks = [rank for index in range(workers) for rank in processes(run, index).ranks]
    send(ranks, signal.SIGSTOP)
    return ranks


def send(ranks: list[int], number: signal.Signals) -> None:
    """Send a signal to processes of this machine."""
    for rank in ranks:
        os.kill(rank, number)


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


def scale(run: Run, size: int) -> None:
    """Give a run another number of pods, until as many processes train."""
    with run.fault(f"scaled to {size}", world=size):
        run.space.api("scale", "pytorchjob", run.name, f"--replicas={size}")


def part_workers(run: Run) -> None:
    """Have two workers on different nodes. A drain may have left both on one."""
    while run.node_of(0) == run.node_of(1):
        break_worker(run, "pod deleted", 1, world=2)


def cut_off_node(run: Run, machines: Cluster, index: int) -> None:
    """Pull the cable of a worker's node, until one process trains, and plug it in again, until two do."""
    node = run.node_of(index)
    with run.fault(f"node cut off (worker-{index})", world=1):
        faults.cut_node(machines, node)
    with run.fault(f"node back (worker-{index})", world=2):
        faults.rejoin_node(machines, node)


def lose_node(run: Run, machines: Cluster, index: int, world: int) -> str:
    """Cut the power of a worker's node, until `world` processes train; the node."""
    node = run.node_of(index)
    with run.fault(f"node killed (worker-{index})", world):
        faults.kill_node(machines, node)
    return node


def check_end(run: Run, root: Path) -> None:
    """Wait for the end of a run, which is that of one that nobody disturbed; what was done to it is kept in `RECORD`.

    Args:
        run: of the demo world.
        root: of the project.
    """
    expected = run.bench.undisturbed(run.steps)
    assert run.wait_end() == "Succeeded", run.why()
    run.keep(root / RECORD)
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
    _check_checkpoints(run)


def _check_checkpoints(run: Run) -> None:
    """Each checkpoint is whole, and of one writer; the newest is that of the last step."""
    with environment(run.bench.store.environment):
        steps = checkpoint_steps(run.output)
        assert steps[0] == run.steps
        for step in steps:
            folder = storage.join(run.output, folder_name(step))
            manifest = whole_manifest(folder)
            verify(folder, manifest)
            assert all(manifest.attempt in file.name for file in manifest.files.values())
