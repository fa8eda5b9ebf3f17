"""The endpoint of a pod: it always answers, its counters never go back, and its values are those of the log."""

import contextlib
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.stores.server import free_ports

from .conftest import end, start

pytestmark = pytest.mark.slow

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


PATIENCE = 60
"""Seconds for an answer, on a machine however busy. What does not answer before something else happens never does."""


def scrape(port: int) -> Samples:
    """All samples. Raises TimeoutError where there is no answer within `PATIENCE`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def phase(samples: Samples) -> str | None:
    """The one phase that is shown; None in the moment in which one follows the other."""
    on = [dict(labels)["phase"] for (name, labels), number in samples.items() if name == "cclm_phase" and number == 1]
    return on[0] if len(on) == 1 else None


def wait_until(port: int, condition: Callable[[Samples], bool], limit: float = 180) -> Samples:
    """Scrape until a condition holds."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            samples = scrape(port)
            if condition(samples):
                return samples
        time.sleep(0.05)
    raise AssertionError("the condition never came true")


def steps(samples: Samples) -> float:
    return value(samples, "cclm_train_steps_total") or 0.0


def test_a_killed_rank_leaves_counters_and_no_stale_gauge(config, tmp_path: Path, launch) -> None:
    path = config(**{"training.max_steps": 4000, "training.log_every": 1, "training.save_every": 5})
    [port] = free_ports(1)
    process = launch(path, "--metrics-port", port, "--max-restarts", 3)
    before = wait_until(port, lambda samples: steps(samples) >= 8 and phase(samples) == "training")
    assert value(before, "cclm_learning_rate") is not None
    assert value(before, "cclm_world_size") == 2
    assert value(before, "cclm_restarts_total", cause="killed") == 0
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE) as answer:
        assert answer.status == 200

    victim = children(process.pid)[-1]
    counted = steps(scrape(port))
    os.kill(victim, signal.SIGKILL)

    def is_counted(samples: Samples) -> bool:
        return value(samples, "cclm_restarts_total", cause="killed") == 1 and phase(samples) is not None

    during = wait_until(port, is_counted)
    assert steps(during) >= counted
    stale = ("cclm_train_step", "cclm_last_step_timestamp_seconds", "cclm_learning_rate", "cclm_eta_seconds")
    assert {name: value(during, name) for name in stale} == dict.fromkeys(stale)
    assert not [labels for (name, labels) in during if name == "cclm_loss"]
    assert phase(during) in ("preparing", "rendezvous")
    after = wait_until(port, lambda samples: phase(samples) == "training" and steps(samples) >= counted + 5)
    assert value(after, "cclm_train_step") is not None
    os.kill(process.pid, signal.SIGTERM)
    end(process, 143)
    with pytest.raises(urllib.error.URLError):
        scrape(port)


def test_a_node_that_waits_for_another_one_answers_and_says_so(config, launch) -> None:
    [port, meeting] = free_ports(2)
    process = launch(
        config(), "--metrics-port", port, "--nnodes", 2, "--rdzv-endpoint", f"127.0.0.1:{meeting}", processes=1
    )
    wait_until(port, lambda samples: phase(samples) == "rendezvous")
    for _ in range(5):
        samples = scrape(port)
        assert phase(samples) == "rendezvous"
        assert value(samples, "cclm_nodes", state="wanted_at_least") == 2
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE) as answer:
            assert answer.status == 200
    os.kill(process.pid, signal.SIGTERM)
    end(process, 143)


def children(parent: int) -> list[int]:
    """Training processes of a launcher."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_bytes().rpartition(b")")[2].split()
            command = (path.parent / "cmdline").read_bytes()
            if int(fields[1]) == parent and b"pretrain" in command:
                found.append(int(path.parent.name))
    return found


def test_values_are_those_of_the_log(config, tmp_path: Path) -> None:
    """One process that serves itself."""
    path = config(**{"training.max_steps": 100_000, "training.log_every": 5, "training.save_every": None})
    [port] = free_ports(1)
    process = start("pretrain", path, "--metrics-port", port)
    log = tmp_path / "run" / "metrics.jsonl"

    def same(samples: Samples) -> bool:
        """Whether an interval of the log is the one that the endpoint shows."""
        for line in map(json.loads, log.read_text().splitlines()[-3:]) if log.exists() else ():
            if "losses" in line and value(samples, "cclm_learning_rate") == line["lr"]:
                mine = {
                    key: value(samples, "cclm_loss", kind=key.split("/")[0], loss=key.split("/loss_")[1])
                    for key in line["losses"]
                }
                norms = {kind: value(samples, "cclm_gradient_norm", kind=kind) for kind in line["grad_norms"]}
                learnt = {"temperature": value(samples, "cclm_temperature")}
                rates = {name: value(samples, f"cclm_{name}") for name in ("images_per_second", "texts_per_second")}
                if (mine, norms, learnt) == (line["losses"], line["grad_norms"], line["learnt"]):
                    return rates == {name: line[name] for name in rates}
        return False

    samples = wait_until(port, same)
    assert value(samples, "cclm_train_steps_planned") == 100_000
    real, computed = (value(samples, "cclm_tokens_total", state=state) for state in ("real", "computed"))
    assert real is not None and real > 0 and computed == real  # on a CPU, padding is not computed
    os.kill(process.pid, signal.SIGTERM)
    end(process, 143)


@pytest.mark.parametrize("command", [["launch", "--", "pretrain"], ["pretrain"]], ids=["launch", "pretrain"])
def test_a_port_that_is_taken_ends_nothing(config, tmp_path: Path, command: list[str]) -> None:
    path = config(**{"training.max_steps": 2, "training.log_every": 1, "training.save_every": None})
    [port] = free_ports(1)
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", port))
        taken.listen()
        words = [command[0], "--metrics-port", port, *command[1:], path]
        process = start(*words)
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    assert err.count(f"port {port} cannot be had") == 1
    assert (tmp_path / "run" / "log.txt").read_text().count(f"port {port} cannot be had") == 1
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert f"port {port} cannot be had" in status["warning"]["text"]


def test_a_port_that_is_none_is_one_sentence(config) -> None:
    process = start("pretrain", config(), "--metrics-port", "94oo")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 2
    assert err == "cclm: error: --metrics-port 94oo: a port is a number from 0 to 65535; 0 takes any that is free\n"
