"""Nodes that are lost, the one where all meet among them: the others go on in place. Agents on loopback."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stores.server import free_ports

from .conftest import end
from .test_elastic import SAME_ON_ANY_NUMBER_OF_PROCESSES, steps_done
from .test_launch import wait_for_text
from .test_pretrain import wait_for_line

pytestmark = pytest.mark.slow

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def node(launch: Start) -> Start:
    """Starts a node of a job of two: `node(NUMBER, CONFIG, OPTIONS)`."""
    peers = "|".join(f"127.0.0.1:{port}" for port in free_ports(2))

    def begin(number: int, path: Path, *options: object) -> subprocess.Popen[str]:
        conf = f"peers={peers},node={number},last_call_timeout=3"
        settings = ("--rdzv-endpoint", "node-0:1", "--rdzv-backend", "c10d", "--rdzv-id", "job", "--rdzv-conf", conf)
        return launch(path, *settings, *options, processes=1)

    return begin


class Watched:
    """What has happened in a run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def starts(self, processes: str) -> int:
        log = self.folder / "log.txt"
        return log.read_text().count(f" {processes} on cpu") if log.exists() else 0

    def wait_for(self, processes: str, before: int) -> None:
        """Until the run has started again with so many, and made some steps."""
        wait_for_text(self.folder / "log.txt", f" {processes} on cpu", before + 1)
        wait_for_line(self.folder / "metrics.jsonl", steps_done(self.folder) + 4)


def test_first(config, tmp_path, node) -> None:
    watched = Watched(tmp_path / "run")
    path = config("run", **SAME_ON_ANY_NUMBER_OF_PROCESSES | {"training.max_steps": 200})
    first = node(0, path, "--nnodes", "1:2")
    second = node(1, path, "--nnodes", "1:2")
    watched.wait_for("2 processes", 0)
    before = watched.starts("1 process")
    first.kill()
    watched.wait_for("1 process", before)
    before = watched.starts("2 processes")
    third = node(0, path, "--nnodes", "1:2")
    watched.wait_for("2 processes", before)
    print(end(third, 0))
    print(end(second, 0))
