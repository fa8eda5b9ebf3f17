"""The launcher's events become values: nodes, restarts by cause, attempts, the end."""

import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from cclm import __version__
from cclm.events import (
    AttemptsCounted,
    Ended,
    Event,
    Journal,
    NodeJoining,
    NodeLeft,
    NodesMet,
    Notice,
    PreflightChecked,
    Rejoining,
    Restarted,
    RestartsCounted,
    RoundBroken,
    WaitingForNodes,
)
from cclm.launch.causes import Cause
from cclm.launch.metrics_sink import LauncherMetrics, last_progress, serving_metrics
from cclm.launch_contract import METRICS_FOLDER, METRICS_NOTICE, METRICS_WARNING
from cclm.metrics import catalogue
from cclm.metrics.catalogue import PHASES
from cclm.metrics.endpoint import PodCollector, open_endpoint
from cclm.metrics.prometheus import Exported
from cclm.storage.patience import retried

CALL = """
from cclm import storage
from cclm.metrics.store_metrics import store_metrics_of_process
from cclm.metrics.waiting import Waiter
from cclm.storage.patience import retried
storage.set_observer(store_metrics_of_process(Waiter.TRAINING))
for url in ("s3://b/k", "s3://b/k", "s3://b/k", "hdfs://b/k"):
    retried(url, lambda: None)
"""
MET = NodesMet(nodes=1, min_nodes=1, max_nodes=1, node_rank=0, processes=2, seconds=0.1)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> LauncherMetrics:
    return LauncherMetrics(Exported(registry))


def restarts(registry: CollectorRegistry) -> dict[str, float]:
    """By cause."""
    [family] = [family for family in registry.collect() if family.name == "cclm_restarts"]
    return {sample.labels["cause"]: sample.value for sample in family.samples}


def phases(registry: CollectorRegistry) -> list[str]:
    """Those that are on."""
    values = {each: registry.get_sample_value("cclm_phase", {"phase": each}) for each in PHASES}
    assert None not in values.values()
    return [each for each, value in values.items() if value == 1]


@pytest.mark.usefixtures("metrics")
def test_before_anything_happens(registry: CollectorRegistry) -> None:
    counts = restarts(registry)
    assert counts.keys() >= {cause.name.lower() for cause in Cause}
    assert set(counts.values()) == {0}
    assert phases(registry) == ["preparing"]
    assert registry.get_sample_value("cclm_exit_code") is None
    [build] = [family.samples for family in registry.collect() if family.name == "cclm_build_info"]
    assert build[0].value == 1
    assert (build[0].labels["version"], build[0].labels["python"]) == (__version__, platform.python_version())


def test_nodes_meet(metrics: LauncherMetrics, registry: CollectorRegistry) -> None:
    metrics.handle(WaitingForNodes(min_nodes=2, max_nodes=4))
    assert phases(registry) == ["rendezvous"]
    assert registry.get_sample_value("cclm_nodes", {"state": "present"}) == 0
    metrics.handle(NodesMet(nodes=3, min_nodes=2, max_nodes=4, node_rank=0, processes=6, seconds=1.0))
    assert phases(registry) == ["preparing"]
    counts = {"wanted_at_least": 2, "wanted_at_most": 4, "present": 3}
    assert {state: registry.get_sample_value("cclm_nodes", {"state": state}) for state in counts} == counts
    metrics.handle(WaitingForNodes(min_nodes=2, max_nodes=4))
    assert registry.get_sample_value("cclm_nodes", {"state": "present"}) == 0


@pytest.mark.parametrize(
    ("event", "cause"),
    [
        (Restarted("KILLED", "rank 1 was killed", 2, 3), "killed"),
        (NodeLeft("LOST_PEER", "a node is gone", 3), "lost_peer"),
        (RoundBroken("KILLED", "on another node: rank 1 was killed", 3), "killed"),
        (NodeJoining(2, 3), "membership"),
        (Rejoining(3), "membership"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Event) else value,
)
def test_restarts_are_counted_by_cause(
    metrics: LauncherMetrics, registry: CollectorRegistry, event: Event, cause: str
) -> None:
    before = restarts(registry)
    assert before[cause] == 0
    metrics.handle(event)
    assert restarts(registry) == {**before, cause: 1}


def test_checks_before_the_start(metrics: LauncherMetrics, registry: CollectorRegistry) -> None:
    metrics.handle(PreflightChecked("gpus", None, "8 x A100", 0.1))
    metrics.handle(PreflightChecked("output_dir", "it is full", "", 0.1))
    assert registry.get_sample_value("cclm_preflight_ok", {"check": "gpus"}) == 1
    assert registry.get_sample_value("cclm_preflight_ok", {"check": "output_dir"}) == 0


def test_attempts_and_the_end(metrics: LauncherMetrics, registry: CollectorRegistry) -> None:
    metrics.handle(AttemptsCounted(attempts=2, max_attempts=5))
    assert registry.get_sample_value("cclm_attempts") == 2
    metrics.handle(Ended(143, "PREEMPTED", "SIGTERM", may_retry=True))
    assert registry.get_sample_value("cclm_exit_code") == 143
    assert phases(registry) == ["ended"]


def test_restarts_of_the_run_are_told_by_node_0_alone(metrics: LauncherMetrics, registry: CollectorRegistry) -> None:
    def told(cause: str) -> float | None:
        return registry.get_sample_value("cclm_run_restarts", {"cause": cause})

    assert told("membership") is None
    metrics.handle(NodesMet(2, 1, 2, node_rank=0, processes=4, seconds=0.1))
    metrics.handle(RestartsCounted({}))
    assert told("membership") == 0  # so a reader knows that there were none
    metrics.handle(RestartsCounted({"killed": 3, "unknown": 1}))
    assert (told("killed"), told("unknown"), told("membership")) == (3, 1, 0)
    metrics.handle(NodesMet(2, 1, 2, node_rank=1, processes=4, seconds=0.1))
    assert told("killed") is None


class Recorder(list[Event]):
    """A sink that keeps the events."""

    def handle(self, event: Event) -> None:
        self.append(event)


def test_a_port_that_was_free_is_said_on_the_console_and_once_in_the_log() -> None:
    recorder = Recorder()
    journal = Journal([recorder])
    with serving_metrics(0, journal) as endpoint:
        assert endpoint is not None
        [notice] = recorder
        sentence = f"metrics are served on port {endpoint.port}: http://localhost:{endpoint.port}/metrics"
        assert notice == Notice(sentence)
        assert METRICS_FOLDER in os.environ
        journal.emit(MET)
        assert os.environ[METRICS_NOTICE] == sentence  # inherited by the processes that start now
        journal.emit(MET)
        assert METRICS_NOTICE not in os.environ  # by those that start again no more
    assert METRICS_FOLDER not in os.environ


def test_a_port_that_is_taken_is_said_on_the_console_and_in_the_log() -> None:
    recorder = Recorder()
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        with serving_metrics(taken.getsockname()[1], Journal([recorder])) as endpoint:
            assert endpoint is None
            [notice] = recorder
            assert notice == Notice(os.environ[METRICS_WARNING]) and "cannot be had" in os.environ[METRICS_WARNING]
            assert METRICS_FOLDER not in os.environ
    assert METRICS_WARNING not in os.environ


def test_the_launcher_says_that_it_waits_for_a_store_and_counts_its_calls() -> None:
    """Its counts are added to those of its processes."""
    with serving_metrics(0, Journal()) as endpoint:
        assert endpoint is not None
        subprocess.run([sys.executable, "-c", CALL], check=True, timeout=300)
        seen: list[list[str]] = []
        errors: list[Exception] = [ConnectionResetError()]

        def call() -> None:
            seen.append(phases(registry))
            if errors:
                raise errors.pop()

        registry = CollectorRegistry()
        registry.register(endpoint.collector)
        retried("s3://b/k", call)
        assert seen == [["preparing"], ["waiting_for_store"]]
        assert phases(registry) == ["preparing"]
        calls = {store: registry.get_sample_value("cclm_storage_calls_total", {"store": store, "outcome": "ok"})
                 for store in ("s3", "hdfs")}  # fmt: skip
        assert calls == {"s3": 4, "hdfs": 1}
        assert registry.get_sample_value("cclm_storage_retries_total", {"store": "s3"}) == 1


def test_how_far_training_came_is_known_at_the_end(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    exported = Exported(registry)
    assert last_progress(None) == {}
    with open_endpoint(0, PodCollector(tmp_path, registry), pytest.fail) as endpoint:
        exported.set(catalogue.STEPS_PLANNED, 300)
        assert last_progress(endpoint) == {}  # a node that does not count the steps of the run
        exported.set(catalogue.STEP, 200)
        exported.set(catalogue.LOSS, 1.5, "image", "itc")
        assert last_progress(endpoint) == {"step": 200, "planned": 300, "image/itc": 1.5}


def test_an_end_is_told_though_metrics_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(collector: PodCollector) -> None:
        raise OSError("the folder is gone")

    with open_endpoint(0, PodCollector(tmp_path), pytest.fail) as endpoint:
        monkeypatch.setattr(PodCollector, "collect", fail)
        assert last_progress(endpoint) == {}
