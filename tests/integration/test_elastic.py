"""Nodes that come and go: two agents on loopback, configured as training operators do, by PET_* variables."""

import contextlib
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from cclm.data.commands.audit_report import read_audit
from tests.stores.server import free_ports

from .conftest import end, metrics, verdict
from .test_launch import SMALL, wait_for_text
from .test_pretrain import wait_for_line

pytestmark = pytest.mark.slow

SAME_ON_ANY_NUMBER_OF_PROCESSES = SMALL | {
    "model.text.dropout": 0.0,
    "model.text.attention_dropout": 0.0,
    "model.vision.drop_path": 0.0,
    # Negatives for matching are drawn from a process's own rows, and masked tokens are averaged over them.
    "objective": {"contrastive_gradient": "global", "weights": {"itm": 0.0, "mlm": 0.0}},
    "optimizer": {"lr": 1e-4},
    "schedule": {"warmup_fraction": 0.0},
    "training.max_steps": 100_000,
    "training.save_every": 10,
}


@pytest.fixture
def rendezvous(monkeypatch) -> int:
    """The operator's variables, with a place on loopback: its port."""
    (port,) = free_ports(1)
    variables = {
        "NNODES": "1:2", "RDZV_BACKEND": "c10d", "RDZV_ENDPOINT": f"127.0.0.1:{port}", "RDZV_ID": "elastic",
        "RDZV_CONF": "last_call_timeout=3", "MAX_RESTARTS": "3",
        "STANDALONE": "",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(f"PET_{name}", value)
    return port


def wait_for_host(port: int) -> None:
    """Until the first node holds the rendezvous: of two that start together, either may."""
    deadline = time.monotonic() + 240
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert time.monotonic() < deadline, f"nobody listens on port {port}"
        time.sleep(0.05)


def steps_done(folder: Path) -> int:
    lines = folder / "metrics.jsonl"
    return len(lines.read_text().splitlines()) if lines.exists() else 0


def test_nodes_come_and_go_and_the_run_stays_the_same(config, tmp_path, launch, rendezvous, monkeypatch):
    """2 -> 1 -> 2 nodes, then the one that holds the rendezvous dies, and a last launch goes on alone.

    With --resume never, which the job must obey once, and not each time nodes come and go.
    """
    folder = tmp_path / "elastic"
    path = config("elastic", **SAME_ON_ANY_NUMBER_OF_PROCESSES)

    def starts(processes: str) -> int:
        log = folder / "log.txt"
        return log.read_text().count(f" {processes} on cpu") if log.exists() else 0

    def wait_for(processes: str, before: int) -> None:
        """Until the run has started again with so many, and made some steps."""
        wait_for_text(folder / "log.txt", f" {processes} on cpu", before + 1)
        wait_for_line(folder / "metrics.jsonl", steps_done(folder) + 4)

    first = launch(path, processes=1, resume="never")
    wait_for_host(rendezvous)
    second = launch(path, processes=1, resume="never")
    wait_for("2 processes", 0)
    before = starts("1 process")
    second.send_signal(signal.SIGTERM)
    assert "exit code 143" in verdict(end(second, 143))
    wait_for("1 process", before)
    before = starts("2 processes")
    third = launch(path, processes=1, resume="never")
    wait_for("2 processes", before)
    before = starts("1 process")
    first.kill()  # its training process must not outlive it
    err = end(third, 200)
    assert "the same command goes on from the newest checkpoint" in verdict(err)

    for name in list(os.environ):
        if name.startswith("PET_"):
            monkeypatch.delenv(name)
    last = launch(path, processes=1)
    wait_for("1 process", before)
    wait_for_line(folder / "metrics.jsonl", steps_done(folder) + 15)  # over the end of an epoch
    last.send_signal(signal.SIGTERM)
    end(last, 143)
    done = steps_done(folder)
    whole = launch(config("whole", **SAME_ON_ANY_NUMBER_OF_PROCESSES), processes=1)
    wait_for_line(tmp_path / "whole" / "metrics.jsonl", done)
    whole.send_signal(signal.SIGTERM)
    end(whole, 143)

    pairs = list(zip(metrics(folder), metrics(tmp_path / "whole")[:done], strict=True))
    assert [mine["step"] for mine, _ in pairs] == list(range(1, done + 1))
    for mine, theirs in pairs:
        assert mine["losses"]["images/loss_itc"] == pytest.approx(theirs["losses"]["images/loss_itc"], rel=1e-4), mine
        assert mine["lr"] == theirs["lr"]
    audited = read_audit(str(folder))
    verdicts = [line.verdict for _, line in sorted(audited.items())]
    # What fills no batch at the end of an epoch is read in the next one, so the run may have stopped before it.
    assert verdicts.count("each once") >= 2 and set(verdicts[:-2]) == {"each once"}
    assert set(verdicts[-2:]) <= {"each once", "not finished"}
