"""A real Prometheus watches a run of which a process is killed: what it computes is what the run did."""

import os
import re
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.prometheus_server import program, scraping
from tests.stores.server import free_ports

from .conftest import end
from .test_metrics_endpoint import Samples, children, phase, scrape, steps, value, wait_until

# The first time, Prometheus and promtool are built: minutes, or half an hour each on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

COUNTER = "cclm_train_steps_total"


def hold(port: int, victim: int) -> Samples:
    """Stop one rank, so that the others wait for it in a collective, and return what stands still then."""
    os.kill(victim, signal.SIGSTOP)
    before, since = scrape(port), time.monotonic()
    while time.monotonic() - since < 3:  # three scrapes of Prometheus
        time.sleep(0.2)
        now = scrape(port)
        if steps(now) != steps(before):
            before, since = now, time.monotonic()
    return before


def test_increase_over_a_restart_is_the_steps_made(config, tmp_path: Path, launch) -> None:
    path = config(**{"training.max_steps": 4000, "training.log_every": 1, "training.save_every": 5})
    promtool = program("promtool")
    program("prometheus")
    [port] = free_ports(1)
    process = launch(path, "--metrics-port", port, "--max-restarts", 3)
    wait_until(port, lambda samples: value(samples, "cclm_restarts_total", cause="killed") == 0)
    with scraping(tmp_path, f"127.0.0.1:{port}") as prometheus:
        wait_until(port, lambda samples: steps(samples) >= 8)
        victim = children(process.pid)[-1]
        first = hold(port, victim)
        os.kill(victim, signal.SIGKILL)

        def has_gone_on(samples: Samples) -> bool:
            return value(samples, "cclm_restarts_total", cause="killed") == 1 and phase(samples) == "training"

        wait_until(port, lambda samples: has_gone_on(samples) and steps(samples) >= steps(first) + 8)
        last = hold(port, children(process.pid)[-1])
        [series] = prometheus.query(f"{COUNTER}[1h]")  # one: its labels are the same after the restart
        scraped = [float(number) for _, number in series["values"]]
        increase = prometheus.value(f"increase({COUNTER}[1h] anchored)")
        extrapolated = prometheus.value(f"increase({COUNTER}[1h])")
        [ups] = prometheus.query("up[1h]")
        slowest = prometheus.value("max_over_time(scrape_duration_seconds[1h])")
        resets = prometheus.value(f"resets({COUNTER}[1h])")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read()

    [going_on] = map(int, re.findall(r"resuming after step (\d+)", (tmp_path / "run" / "log.txt").read_text()))
    before_the_kill, at_the_end = value(first, "cclm_train_step"), value(last, "cclm_train_step")
    assert before_the_kill is not None and at_the_end is not None
    made = before_the_kill + at_the_end - going_on
    assert going_on < before_the_kill, "nothing was made again, so the test shows nothing"
    assert scraped[0] == 0
    assert resets == 0
    assert steps(last) == scraped[-1] - scraped[0] == increase == made
    assert extrapolated == pytest.approx(made, rel=0.1)
    # Every scrape was answered in time, and has the series from its first sample on.
    assert {number for _, number in ups["values"]} == {"1"}
    assert slowest < 1
    began = series["values"][0][0]
    assert [at for at, _ in series["values"]] == [at for at, _ in ups["values"] if at >= began]

    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    os.killpg(process.pid, signal.SIGCONT)
    os.kill(process.pid, signal.SIGTERM)
    end(process, 143)
