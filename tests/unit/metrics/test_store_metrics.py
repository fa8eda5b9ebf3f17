"""Calls to stores as metrics, in one process and in several."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from cclm import storage
from cclm.events import Event, Journal, PhaseChanged
from cclm.launch_contract import METRICS_FOLDER, STORE_WAITS
from cclm.metrics import catalogue
from cclm.metrics.store_metrics import StoreMetrics, store_metrics_of_process
from cclm.metrics.waiting import Waiter, phase_with_waits, waiters
from cclm.storage.patience import retried
from cclm.training.store_waits import StoreWaits


def test_the_catalogue_names_every_outcome() -> None:
    assert set(catalogue.STORAGE_OUTCOMES) == set(storage.Outcome)


def test_nothing_is_observed_where_nothing_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(METRICS_FOLDER, raising=False)
    monkeypatch.delenv(STORE_WAITS, raising=False)
    assert store_metrics_of_process(Waiter.LOADER) is None


CALLS = dedent(
    """
    import multiprocessing, os, sys
    from concurrent.futures import ThreadPoolExecutor
    from cclm import storage
    from cclm.metrics.store_metrics import store_metrics_of_process
    from cclm.metrics.waiting import Waiter
    from cclm.storage.patience import retried

    def call(number):
        errors = [ConnectionResetError()] if number == 0 else []
        def attempt():
            if errors:
                raise errors.pop()
        retried("s3://b/k", attempt)

    def spawned():
        storage.set_observer(store_metrics_of_process(Waiter.LOADER))
        call(1)

    if __name__ == "__main__":
        storage.set_observer(store_metrics_of_process(Waiter.TRAINING))
        assert "prometheus_client" not in sys.modules
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(call, range(200)))
        storage.write_atomic("memory://x/file", b"abc")
        context = multiprocessing.get_context("forkserver")
        processes = [context.Process(target=spawned) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        if (child := os.fork()) == 0:
            call(1)
            os._exit(0)
        os.waitpid(child, 0)
        call(1)
        MORE
    """
)


def run_calls(folder: Path, metrics: Path, more: str = "") -> None:
    script = folder / "calls.py"
    script.write_text(CALLS.replace("MORE", more))
    environment = {**os.environ, METRICS_FOLDER: str(metrics)}
    subprocess.run([sys.executable, script], env=environment, check=True, timeout=300)


def test_every_call_is_counted_once_in_threads_and_in_processes_however_they_start(tmp_path: Path) -> None:
    """200 calls of 8 threads, one of each of 3 spawned processes, one of a forked one, and one after it."""
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    run_calls(tmp_path, metrics)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(metrics))  # type: ignore[no-untyped-call]  # untyped in prometheus_client

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value("cclm_storage_calls_total", store="s3", outcome="ok") == 205
    assert value("cclm_storage_calls_total", store="s3", outcome="unavailable") == 0
    assert value("cclm_storage_retries_total", store="s3") == 1
    # A pause of 0.05 s, in seconds: in milliseconds it would be above 50, however busy the machine is.
    assert 0.05 < (value("cclm_storage_outage_seconds_total", store="s3") or 0) < 50
    assert value("cclm_storage_bytes_total", store="other", direction="written") == 3
    assert value("cclm_storage_bytes_total", store="other", direction="read") == 0


def test_a_call_succeeds_though_the_folder_of_metrics_is_gone(tmp_path: Path) -> None:
    run_calls(tmp_path, tmp_path / "never made")


class Phases:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def handle(self, event: Event) -> None:
        if isinstance(event, PhaseChanged):
            self.seen.append(event.phase)


def test_an_outage_is_a_phase_and_the_one_before_comes_back() -> None:
    phases, journal = Phases(), Journal()
    waits = StoreWaits(journal, None)
    journal.sinks += [waits, phases]
    storage.set_observer(waits)
    errors: list[Exception] = []

    def call() -> None:
        if errors:
            raise errors.pop()

    try:
        errors[:] = [TimeoutError()]
        retried("s3://b/k", call)
        journal.emit(PhaseChanged("training"))
        retried("s3://b/k", call)
        errors[:] = [TimeoutError(), TimeoutError()]
        retried("s3://b/k", call)
    finally:
        storage.set_observer(None)
    assert phases.seen == ["waiting_for_store", "preparing", "training", "waiting_for_store", "training"]


def test_one_of_several_calls_that_comes_back_does_not_end_the_wait() -> None:
    phases, journal = Phases(), Journal()
    waits = StoreWaits(journal, None)
    journal.sinks += [waits, phases]
    for report in (waits.outage_began, waits.outage_began, waits.outage_ended):
        report("s3")
    assert phases.seen == ["waiting_for_store"]
    waits.outage_ended("s3")
    assert phases.seen == ["waiting_for_store", "preparing"]


def test_a_process_has_a_mark_while_its_calls_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where metrics are not exported: `status.json` looks at marks, too."""
    monkeypatch.delenv(METRICS_FOLDER, raising=False)
    monkeypatch.setenv(STORE_WAITS, str(tmp_path))
    seen: list[set[Waiter]] = []
    errors: list[Exception] = [TimeoutError(), TimeoutError()]

    def call() -> None:
        seen.append(waiters(tmp_path))
        if errors:
            raise errors.pop()

    storage.set_observer(store_metrics_of_process(Waiter.WRITER))
    try:
        retried("s3://b/k", call)
    finally:
        storage.set_observer(None)
    assert seen == [set(), {Waiter.WRITER}, {Waiter.WRITER}]
    assert waiters(tmp_path) == set()


def test_one_of_several_calls_that_comes_back_leaves_the_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(METRICS_FOLDER, str(tmp_path))
    metrics = StoreMetrics(Waiter.LOADER, is_counted=False)
    for report in (metrics.outage_began, metrics.outage_began, metrics.outage_ended):
        report("s3")
    assert waiters(tmp_path) == {Waiter.LOADER}
    metrics.outage_ended("s3")
    assert waiters(tmp_path) == set()


def test_the_mark_of_a_process_that_is_gone_says_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    mark = tmp_path / f"waits-loader-{gone.pid}"
    mark.touch()
    assert waiters(tmp_path) == set()
    assert not mark.exists()


@pytest.mark.parametrize(
    ("phase", "waiting", "shown"),
    [
        ("training", set(), "training"),
        ("training", {Waiter.LOADER}, "waiting_for_store"),
        ("preparing", {Waiter.LAUNCHER}, "waiting_for_store"),
        ("training", {Waiter.WRITER}, "training"),  # it holds up nobody
        ("saving", {Waiter.WRITER}, "waiting_for_store"),
        ("ended", {Waiter.WRITER, Waiter.LAUNCHER}, "ended"),
    ],
)
def test_what_a_process_that_waits_makes_of_the_phase(phase: str, waiting: set[Waiter], shown: str) -> None:
    assert phase_with_waits(phase, waiting) == shown
