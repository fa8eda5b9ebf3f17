"""A real Prometheus watches a run of which a process is killed: what it computes is what the run did."""

import os
import re
import signal
import subprocess
import urllib.request
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.common import wait_for
from tests.prometheus_server import Prometheus, program, scraping
from tests.stores.server import free_ports

from .conftest import end
from .test_metrics_endpoint import Samples, children, phase, scrape, steps, value, wait_until

# The first time, Prometheus and promtool are built: minutes, or half an hour each on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

COUNTER = "cclm_train_steps_total"
EVERY = 2
"""Seconds between scrapes, and for an answer."""
SAVE_EVERY = 5


def hold(port: int, victim: int, prometheus: Prometheus) -> Samples:
    """Stop one rank, so that the others wait for it in a collective; what stands still and is scraped then."""
    os.kill(victim, signal.SIGSTOP)
    standing: list[Samples] = []

    def stands() -> bool:
        """Whether Prometheus has seen the newest count, and the same again at its next scrape."""
        seen = prometheus.query(f"{COUNTER}[{3 * EVERY}s]")
        newest = [float(number) for _, number in seen[0]["values"][-2:]] if seen else []
        standing[:] = [scrape(port)]
        return newest == [steps(standing[0])] * 2

    wait_for(stands, what="two scrapes of counts that stand still", timeout=240)
    return standing[0]


def hold_between_saves(port: int, victim: int, prometheus: Prometheus) -> Samples:
    """`hold` at a step that is not saved, which is therefore made again after a kill."""
    held = hold(port, victim, prometheus)
    while (value(held, "cclm_train_step") or 0) % SAVE_EVERY == 0:
        os.kill(victim, signal.SIGCONT)
        wait_until(port, partial(has_more_steps, steps(held)))
        held = hold(port, victim, prometheus)
    return held


def has_more_steps(before: float, samples: Samples) -> bool:
    return steps(samples) > before


def test_increase_over_a_restart_is_the_steps_made(config, tmp_path: Path, launch) -> None:
    path = config(**{"training.max_steps": 4000, "training.log_every": 1, "training.save_every": SAVE_EVERY})
    promtool = program("promtool")
    program("prometheus")
    [port] = free_ports(1)
    with scraping(tmp_path, f"127.0.0.1:{port}", EVERY) as prometheus:
        process = launch(path, "--metrics-port", port, "--max-restarts", 3)
        wait_until(port, lambda samples: steps(samples) >= 8)
        victim = children(process.pid)[-1]
        first = hold_between_saves(port, victim, prometheus)
        os.kill(victim, signal.SIGKILL)

        def has_gone_on(samples: Samples) -> bool:
            return value(samples, "cclm_restarts_total", cause="killed") == 1 and phase(samples) == "training"

        wait_until(port, lambda samples: has_gone_on(samples) and steps(samples) >= steps(first) + 8)
        last = hold(port, children(process.pid)[-1], prometheus)
        [series] = prometheus.query(f"{COUNTER}[1h]")  # one: its labels are the same after the restart
        scraped = [float(number) for _, number in series["values"]]
        increase = prometheus.value(f"increase({COUNTER}[1h] anchored)")
        extrapolated = prometheus.value(f"increase({COUNTER}[1h])")
        [ups] = prometheus.query("up[1h]")
        resets = prometheus.value(f"resets({COUNTER}[1h])")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            text = answer.read()

    [going_on] = map(int, re.findall(r"resuming after step (\d+)", (tmp_path / "run" / "log.txt").read_text()))
    before_the_kill, at_the_end = value(first, "cclm_train_step"), value(last, "cclm_train_step")
    assert before_the_kill is not None and at_the_end is not None
    made = before_the_kill + at_the_end - going_on
    assert going_on < before_the_kill, "nothing was made again, so the test shows nothing"
    assert scraped[0] == 0
    assert resets == 0
    assert steps(last) == scraped[-1] - scraped[0] == increase == made
    # Prometheus adds for the time after the last sample: that of 1.1 intervals at most.
    assert made - 0.001 <= extrapolated <= made * (1 + 1.1 / (len(scraped) - 1)) + 0.001
    # Every scrape was answered in time since the launcher serves, and has the series from its first sample on.
    answered = [number for _, number in ups["values"]]
    assert set(answered[answered.index("1") :]) == {"1"}
    began = series["values"][0][0]
    assert [at for at, _ in series["values"]] == [at for at, _ in ups["values"] if at >= began]

    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    os.killpg(process.pid, signal.SIGCONT)
    os.kill(process.pid, signal.SIGTERM)
    end(process, 143)
