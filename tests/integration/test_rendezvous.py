"""Nodes that are lost, cut off, replaced, or come late; the host of the meeting among them.

Processes are stubs that only wait, but for the last test, which trains.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cclm.data.commands.audit_report import read_audit
from tests.stores.server import free_ports

from .conftest import end, metrics
from .test_elastic import SAME_ON_ANY_NUMBER_OF_PROCESSES
from .test_launch import wait_for_text
from .test_pretrain import wait_for_line

pytestmark = pytest.mark.slow
PATIENCE = 240
FAULTS = ("killed", "preempted", "stands still", "process killed")
LOSSES = int(os.environ.get("CCLM_TEST_LOSSES", 3))
"""How often a node is lost at random."""
SEED = int(os.environ.get("CCLM_TEST_SEED", random.randrange(1000)))


@pytest.fixture(scope="module")
def farm() -> Iterator[subprocess.Popen[str]]:
    """What forks launchers."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.integration.forked_nodes"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        yield process


class Nodes:
    """The nodes of one job, and what they did."""

    def __init__(self, farm: subprocess.Popen[str], folder: Path, count: int) -> None:
        self._farm, self.folder = farm, folder
        self.peers = "|".join(f"127.0.0.1:{port}" for port in free_ports(count))
        self.started: dict[str, int] = {}
        """Process ids of launchers, by name."""

    def start(self, index: int, nodes: str, *, name: str | None = None, conf: str = "", max_restarts: int = 3) -> str:
        """Start the launcher of a node; returns the name of its files."""
        name = name or f"node-{index}"
        settings = f"peers={self.peers},node={index},last_call_timeout=2{conf}"
        options = [
            f"--nnodes={nodes}", "--nproc-per-node=1", f"--max-restarts={max_restarts}", "--rdzv-backend=c10d",
            "--rdzv-endpoint=node-0:1", "--rdzv-id=job", f"--rdzv-conf={settings}", "--monitor-interval=0.05",
        ]  # fmt: skip
        asked = {"folder": str(self.folder), "name": name, "options": options}
        self._farm.stdin.write(json.dumps(asked) + "\n")
        self._farm.stdin.flush()
        self.started[name] = int(self._farm.stdout.readline())
        return name

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a launcher alone."""
        os.kill(self.started[name], number)

    def ranks(self, name: str) -> list[str]:
        """`RANK/WORLD_SIZE` of each start of its process."""
        path = self.folder / f"{name}.starts"
        return path.read_text().split() if path.exists() else []

    def wait_for(self, name: str, *ranks: str) -> None:
        """Until its process has started in these ways, and in no other one."""
        self._wait(lambda: len(self.ranks(name)) >= len(ranks), f"{name} starts as {ranks}")
        assert self.ranks(name) == list(ranks), self.said(name)

    def wait_for_round(self, starts: dict[str, int]) -> None:
        """Until nodes have started so often; in the last start they are together. Either may have become the host."""
        for name, number in starts.items():
            self._wait(lambda name=name, number=number: len(self.ranks(name)) >= number, f"start {number} of {name}")
        last = sorted(self.ranks(name)[number - 1] for name, number in starts.items())
        assert last == [f"{rank}/{len(starts)}" for rank in range(len(starts))]
        assert {name: len(self.ranks(name)) for name in starts} == starts

    def wait_for_more(self, before: dict[str, int], what: str, world: int | None = None) -> None:
        """Until nodes have started more often than `before`, and their last starts make up a world of that size."""

        def are_there() -> bool:
            ranks = {name: self.ranks(name) for name in before}
            if any(len(ranks[name]) <= count for name, count in before.items()):
                return False
            together = [f"{rank}/{world}" for rank in range(world or 0)]
            return world is None or sorted(each[-1] for each in ranks.values()) == together

        self._wait(are_there, what)

    def wait_for_file(self, name: str) -> None:
        self._wait((self.folder / name).exists, f"a file {name}")

    def wait_for_text(self, name: str, text: str) -> None:
        self._wait(lambda: text in self.said(name), f"{name} says {text!r}")

    def finish(self, *names: str) -> None:
        """Let the processes of some nodes succeed; of all, if none is named."""
        for name in names or ("",):
            (self.folder / "-".join(filter(None, ("finish", name)))).touch()

    def fail(self, name: str, code: int) -> None:
        """Let a node's process end so, or by a signal."""
        part = self.folder / f"part-{name}"
        part.write_text(str(code))
        part.rename(self.folder / f"fail-{name}")

    def end(self, name: str) -> int:
        """Wait for its end; returns its exit code."""
        path = self.folder / f"{name}.exit"
        self._wait(path.exists, f"{name} ends")
        return int(path.read_text())

    def has_ended(self, name: str) -> bool:
        return (self.folder / f"{name}.exit").exists()

    def said(self, name: str) -> str:
        path = self.folder / f"{name}.err"
        return path.read_text() if path.exists() else ""

    def save(self, step: int) -> None:
        """Leave a checkpoint, so that starts get further."""
        folder = self.folder / "run" / f"step-{step:08d}"
        folder.mkdir()
        (folder / "manifest.json").touch()

    def attempts(self) -> int:
        """Starts in a row without a newer checkpoint, as counted."""
        return int(json.loads((self.folder / "run" / "attempts-pretrain.json").read_text())["attempts"])

    def _wait(self, condition, what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            everything = {name: (self.ranks(name), self.said(name)) for name in self.started}
            assert time.monotonic() < deadline, f"in vain: {what}\n{everything}"
            time.sleep(0.02)

    def begin_anew(self) -> None:
        """End all nodes, and forget what they did."""
        self.close()
        for name in self.started:
            self.end(name)
        self.started.clear()
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        for process in self.started.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)


@pytest.fixture
def nodes(farm, tmp_path) -> Iterator[Nodes]:
    found = Nodes(farm, tmp_path, 3)
    yield found
    found.close()


@pytest.fixture
def launch_node(launch):
    """Starts a node of a job of two that trains: `launch_node(INDEX, CONFIG)`."""
    peers = "|".join(f"127.0.0.1:{port}" for port in free_ports(2))

    def begin(index: int, path: Path) -> subprocess.Popen[str]:
        conf = f"peers={peers},node={index},last_call_timeout=240"
        place = ("--rdzv-endpoint", "node-0:1", "--rdzv-backend", "c10d", "--rdzv-id", "job", "--rdzv-conf", conf)
        return launch(path, "--nnodes", "1:2", *place, processes=1)

    return begin


def started(nodes: Nodes, count: int, between: str, **settings: object) -> list[str]:
    """So many nodes in their first round, the host first.

    On a busy machine one of them may come after the last call, and the others begin without it. Then all begin anew.
    """
    together = [f"{rank}/{count}" for rank in range(count)]
    for attempt in range(3):
        names = [nodes.start(index, between, **settings) for index in range(count)]
        for name in names:
            nodes._wait(lambda name=name: nodes.ranks(name), f"{name} starts")
        if sorted(nodes.ranks(name)[0] for name in names) == together or attempt == 2:
            break
        nodes.begin_anew()
    names.sort(key=lambda name: nodes.ranks(name)[0])
    for rank, name in enumerate(names):
        nodes.wait_for(name, f"{rank}/{count}")
    return names


def test_the_host_is_lost_and_another_node_takes_its_part(nodes):
    host, second = started(nodes, 2, "1:2")
    index = int(host[-1])
    nodes.kill(host)
    nodes.wait_for(second, "1/2", "0/1")
    assert "lost the node where all meet" in nodes.said(second) and not nodes.has_ended(second)
    assert nodes.attempts() == 1
    again = nodes.start(index, "1:2", name="again")
    nodes.wait_for(again, "1/2")
    nodes.wait_for(second, "1/2", "0/1", "0/2")
    assert "another node wants to join" in nodes.said(second)
    nodes.finish()
    assert nodes.end(again) == nodes.end(second) == 0
    assert nodes.attempts() == 0 and "restart 1" not in nodes.said(second)


def test_of_several_nodes_one_becomes_the_host(nodes):
    host, second, third = started(nodes, 3, "1:3")
    nodes.kill(host)
    nodes.wait_for(second, "1/3", "0/2")
    nodes.wait_for(third, "2/3", "1/2")
    nodes.finish()
    assert nodes.end(second) == nodes.end(third) == 0 and nodes.attempts() == 0


def test_too_few_nodes_wait_in_place_for_a_replacement(nodes):
    host, second = started(nodes, 2, "2")
    nodes.kill(host)
    nodes.wait_for_text(second, "lost the node where all meet")
    again = nodes.start(int(host[-1]), "2", name="again")
    nodes.wait_for_round({again: 1, second: 2})
    assert nodes.attempts() == 1
    nodes.finish()
    assert nodes.end(again) == nodes.end(second) == 0


def test_a_killed_process_uses_up_a_restart_of_its_own_node_only(nodes):
    host, second = started(nodes, 2, "2")
    nodes.fail(second, -signal.SIGKILL)
    nodes.wait_for(second, "1/2", "1/2")
    nodes.wait_for(host, "0/2", "0/2")
    assert "restart 1 of 3" in nodes.said(second)
    assert "on another node: rank 1 was killed by SIGKILL" in nodes.said(host)
    assert "restart 1" not in nodes.said(host)
    assert nodes.attempts() == 2
    nodes.finish()
    assert nodes.end(host) == nodes.end(second) == 0


@pytest.mark.parametrize("who", ["host", "other"])
def test_a_node_without_restarts_leaves_and_the_other_waits_for_the_next_one(nodes, who):
    names = started(nodes, 2, "2", max_restarts=0)
    failing, healthy = names if who == "host" else reversed(names)
    nodes.fail(failing, -signal.SIGKILL)
    assert nodes.end(failing) == 137
    again = nodes.start(int(failing[-1]), "2", name="again", max_restarts=0)
    nodes.wait_for_round({again: 1, healthy: 2})
    nodes.finish()
    assert nodes.end(again) == nodes.end(healthy) == 0


def test_a_mistake_ends_the_run_for_all_at_once(nodes):
    host, second = started(nodes, 2, "1:2")
    nodes.fail(second, 2)
    assert nodes.end(host) == nodes.end(second) == 2
    assert "refused what it was given" in nodes.said(host)


@pytest.mark.parametrize("who", ["host", "other"])
def test_a_node_that_is_preempted_leaves_the_others_to_go_on(nodes, who):
    names = started(nodes, 2, "1:2")
    leaving, staying = names if who == "host" else reversed(names)
    nodes.kill(leaving, signal.SIGTERM)
    assert nodes.end(leaving) == 143
    nodes.wait_for_round({staying: 2})
    assert nodes.attempts() == 1
    nodes.finish()
    assert nodes.end(staying) == 0


def test_a_node_that_was_cut_off_comes_back(nodes):
    """Its launcher stands still, so the other takes it for lost, and goes on. Later both meet again."""
    host, second = started(nodes, 2, "1:2", conf=",keep_alive_interval=1,keep_alive_max_attempt=8")
    nodes.kill(host, signal.SIGSTOP)
    nodes.wait_for(second, "1/2", "0/1")
    nodes.kill(host, signal.SIGCONT)
    nodes.wait_for(host, "0/2", "1/2")
    nodes.wait_for(second, "1/2", "0/1", "0/2")
    assert nodes.attempts() == 1
    nodes.finish()
    assert nodes.end(host) == nodes.end(second) == 0


def test_nobody_leaves_with_success_before_all_have_succeeded(nodes):
    host, second = started(nodes, 2, "2")
    nodes.finish(host)
    nodes.wait_for_file(f"{host}.done")
    late = nodes.start(2, "2")  # there is no room for it
    nodes.kill(second, signal.SIGSTOP)
    nodes.finish(second)
    nodes.wait_for_file(f"{second}.done")
    assert not nodes.has_ended(host)
    nodes.kill(second, signal.SIGCONT)
    assert nodes.end(host) == nodes.end(second) == 0
    assert nodes.ranks(late) == []


def test_a_node_that_is_lost_after_another_has_succeeded_is_made_up_for(nodes):
    host, second = started(nodes, 2, "1:2")
    nodes.finish(second)
    nodes.kill(host)
    nodes.wait_for(second, "1/2", "0/1")
    assert nodes.end(second) == 0


def test_whatever_is_lost_all_nodes_are_together_again(nodes):
    """At random: launchers killed or preempted, and replaced; launchers that stand still; processes killed."""
    chance = random.Random(SEED)
    settings = {"conf": ",keep_alive_interval=1,keep_alive_max_attempt=3", "max_restarts": 100}
    now = {int(name[-1]): name for name in started(nodes, 3, "1:3", **settings)}
    faults = []
    for number in range(LOSSES):
        nodes.save(number + 1)
        before = {name: len(nodes.ranks(name)) for name in now.values()}
        fault, index = chance.choice(FAULTS), chance.randrange(3)
        victim = now[index]
        faults.append((fault, victim))
        if fault == "process killed":
            nodes.fail(victim, -signal.SIGKILL)
        elif fault == "stands still":
            nodes.kill(victim, signal.SIGSTOP)
            others = {name: count for name, count in before.items() if name != victim}
            nodes.wait_for_more(others, f"seed {SEED}: {faults}")
            nodes.kill(victim, signal.SIGCONT)
        else:
            nodes.kill(victim, signal.SIGTERM if fault == "preempted" else signal.SIGKILL)
            assert nodes.end(victim) == (143 if fault == "preempted" else -signal.SIGKILL)
            now[index] = nodes.start(index, "1:3", name=f"again-{number}", **settings)
        nodes.wait_for_more({name: before.get(name, 0) for name in now.values()}, f"seed {SEED}: {faults}", world=3)
    nodes.finish()
    assert [nodes.end(name) for name in now.values()] == [0, 0, 0], (SEED, faults)


def test_the_loss_of_the_host_changes_nothing_in_what_is_trained(config, tmp_path, launch, launch_node):
    """2 -> 1 -> 2 nodes: each record once, and the losses of an undisturbed run."""
    changes = SAME_ON_ANY_NUMBER_OF_PROCESSES | {"training.max_steps": 60}
    whole = launch(config("whole", **changes), processes=1)
    folder, path = tmp_path / "run", config("run", **changes)
    # Both wait for each other at the start; later one alone is enough.
    first, second = launch_node(0, path), launch_node(1, path)
    wait_for_line(folder / "metrics.jsonl", 5)
    first.kill()
    wait_for_text(folder / "log.txt", " 1 process on cpu")
    again = launch_node(0, path)
    assert "another node wants to join" in end(second, 0)
    end(again, 0)
    end(whole, 0)
    pairs = list(zip(metrics(folder), metrics(tmp_path / "whole"), strict=True))
    assert [mine["step"] for mine, _ in pairs] == list(range(1, 61))
    for mine, theirs in pairs:
        assert mine["losses"]["images/loss_itc"] == pytest.approx(theirs["losses"]["images/loss_itc"], rel=1e-4), mine
    verdicts = [line.verdict for _, line in sorted(read_audit(str(folder)).items())]
    assert verdicts[:-1] and set(verdicts[:-1]) == {"each once"}
