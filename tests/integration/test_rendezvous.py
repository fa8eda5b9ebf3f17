"""Nodes that are lost, cut off, replaced, or come late; the host of the meeting among them. Processes are stubs."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stores.server import free_ports

pytestmark = pytest.mark.slow
PATIENCE = 240


class Nodes:
    """The nodes of one job, and what they did."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.peers = "|".join(f"127.0.0.1:{port}" for port in free_ports(count))
        self.started: dict[str, int] = {}
        """Process ids of launchers, by name."""
        self._farm = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.forked_nodes", str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start(self, index: int, nodes: str, *, name: str | None = None, conf: str = "", max_restarts: int = 3) -> str:
        """Start the launcher of a node; returns the name of its files."""
        name = name or f"node-{index}"
        settings = f"peers={self.peers},node={index},last_call_timeout=2{conf}"
        options = [
            f"--nnodes={nodes}", "--nproc-per-node=1", f"--max-restarts={max_restarts}", "--rdzv-backend=c10d",
            "--rdzv-endpoint=node-0:1", "--rdzv-id=job", f"--rdzv-conf={settings}", "--monitor-interval=0.05",
        ]  # fmt: skip
        asked = {"name": name, "options": options, "max_attempts": 5}
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

    def wait_for_text(self, name: str, text: str) -> None:
        self._wait(lambda: text in self.said(name), f"{name} says {text!r}")

    def finish(self) -> None:
        """Let all processes succeed."""
        (self.folder / "finish").touch()

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

    def attempts(self) -> int:
        """Starts in a row without a newer checkpoint, as counted."""
        return int(json.loads((self.folder / "run" / "attempts-pretrain.json").read_text())["attempts"])

    def _wait(self, condition, what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            everything = {name: (self.ranks(name), self.said(name)) for name in self.started}
            assert time.monotonic() < deadline, f"in vain: {what}\n{everything}"
            time.sleep(0.02)

    def close(self) -> None:
        for process in self.started.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
        self._farm.stdin.close()
        self._farm.wait()


@pytest.fixture
def nodes(tmp_path) -> Iterator[Nodes]:
    found = Nodes(tmp_path, 3)
    yield found
    found.close()


def started(nodes: Nodes, count: int, between: str) -> list[str]:
    """So many nodes in their first round, the host first."""
    names = [nodes.start(index, between) for index in range(count)]
    for name in names:
        nodes._wait(lambda name=name: nodes.ranks(name), f"{name} starts")
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
