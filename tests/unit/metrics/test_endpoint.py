"""What a pod serves: the values of processes that live, the counts of those that are gone, and its launcher's own."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from cclm.events import Event, Journal, Notice, Warned
from cclm.launch.metrics_sink import LauncherMetrics, serving_metrics
from cclm.launch_contract import LAUNCHER_PID, METRICS_FOLDER, METRICS_WARNING
from cclm.metrics import endpoint as endpoint_module
from cclm.metrics.early_events import take_early_events
from cclm.metrics.endpoint import (
    IDLE_TIMEOUT,
    Endpoint,
    PodCollector,
    _SilentHandler,
    folder_of_values,
    open_endpoint,
    serving_process,
)
from cclm.metrics.prometheus import Exported

ACCEPT = (  # as Prometheus 3 asks
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PATIENCE = 60
"""Seconds for an answer, on a machine however busy."""
PROCESS = """
import sys
from cclm.events import PhaseChanged, StepDone, Worked
from cclm.metrics.prometheus import sink_of_process
sink = sink_of_process()
sink.handle(PhaseChanged("training"))
for step in range(1, 1 + int(sys.argv[1])):
    sink.handle(StepDone(step))
sink.handle(Worked({"images": 8}, {"images": 8}, 80, 100, {"data": 1.5}, {"images": 9}, {"images": {"json": 1}}))
print("ready", flush=True)
for line in sys.stdin:
    sink.handle(PhaseChanged(line.strip()))
"""

LOADER = """
import sys
from cclm.data.batches.workers import start_worker
from cclm.storage.patience import retried
errors = [ConnectionResetError()]
def read():
    if errors:
        raise errors.pop()
    print("waits", flush=True)  # the second try
    sys.stdin.readline()
start_worker(0)
retried("s3://b/k", read)
"""

TWO_TRAININGS = """
import dataclasses, sys
from cclm.events import Evaluated, Interval, PhaseChanged, Saved, Started, StepDone, Worked
from cclm.metrics.prometheus import sink_of_process
interval = Interval(5, 9, {"images/loss_ta": 1.0}, 0.1, {"images": 2.0}, {}, 1.0, 1.0, 1.0, {}, 3.0, {"images": 0.5})
for task, kind, count in (("text_assignment", "images", 20), ("reasoning", "examples", 5)):
    sink = sink_of_process()
    print("preparing", flush=True)
    sys.stdin.readline()
    sink.handle(Started(task, 0, count, 7 + count, 1, "cpu", 1, {kind: 7}, ("out",), backend="gloo"))
    sink.handle(PhaseChanged("training"))
    sink.handle(StepDone(count))
    sink.handle(Worked({kind: count}, {kind: count}, count, count, {"data": 1.5}, {kind: 9}, {}))
    sink.handle(dataclasses.replace(interval, losses={f"{kind}/loss": 1.0}))
    if task == "text_assignment":
        sink.handle(Saved(count, "out", 1, 1.0, 0.5))
        sink.handle(Evaluated("test", count, {"en": {"accuracy": 50.0}}))
        sink.handle(PhaseChanged("ended"))
    print("done", flush=True)
    sys.stdin.readline()
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process that makes steps and then waits."""
    with contextlib.ExitStack() as stack:

        def begin(steps: int, rank: int = 0) -> subprocess.Popen[str]:
            environment = {**os.environ, METRICS_FOLDER: str(tmp_path), "LOCAL_RANK": str(rank)}
            command = [sys.executable, "-c", PROCESS, str(steps)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            process = stack.enter_context(subprocess.Popen(command, env=environment, text=True, **pipes))
            stack.callback(process.kill)
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            return process

        yield begin


@pytest.fixture
def pod(tmp_path: Path) -> CollectorRegistry:
    """What a launcher and its processes export."""
    own = CollectorRegistry()
    LauncherMetrics(Exported(own))
    registry = CollectorRegistry()
    registry.register(PodCollector(tmp_path, own))
    return registry


def phase(pod: CollectorRegistry) -> list[str]:
    """Phases that are on."""
    families = [family for family in pod.collect() if family.name == "cclm_phase"]
    return [sample.labels["phase"] for family in families for sample in family.samples if sample.value == 1]


def test_counts_outlive_a_killed_process_and_its_gauges_do_not(start: Start, pod: CollectorRegistry) -> None:
    assert phase(pod) == ["preparing"]  # the launcher's own
    first, other = start(5), start(5, rank=1)
    assert phase(pod) == ["training"]
    assert pod.get_sample_value("cclm_train_step") == 5
    assert pod.get_sample_value("cclm_train_steps_total") == 5  # not of both processes
    assert pod.get_sample_value("cclm_samples_total", {"kind": "images"}) == 16

    first.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # it has ended, but nobody has taken note of it yet
    assert phase(pod) == ["preparing"]
    assert pod.get_sample_value("cclm_train_step") is None
    assert pod.get_sample_value("cclm_train_steps_total") == 5
    assert pod.get_sample_value("cclm_samples_total", {"kind": "images"}) == 16

    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    start(3)
    assert phase(pod) == ["training"]
    assert pod.get_sample_value("cclm_train_step") == 3
    assert pod.get_sample_value("cclm_train_steps_total") == 8
    assert pod.get_sample_value("cclm_records_read_total", {"source": "images"}) == 27
    assert pod.get_sample_value("cclm_restarts_total", {"cause": "killed"}) == 0


def test_a_process_that_has_ended_leaves_its_results_until_processes_start_again(start: Start, tmp_path: Path) -> None:
    own, pod = CollectorRegistry(), CollectorRegistry()
    LauncherMetrics(Exported(own))
    collector = PodCollector(tmp_path, own)
    pod.register(collector)
    process = start(5)
    process.communicate("ended\n", timeout=60)
    assert process.returncode == 0
    assert phase(pod) == ["ended"]
    assert pod.get_sample_value("cclm_train_step") == 5

    collector.begin_round()
    assert phase(pod) == ["preparing"]  # the launcher's own
    assert pod.get_sample_value("cclm_train_step") is None
    assert pod.get_sample_value("cclm_train_steps_total") == 5


def test_a_second_training_of_a_process_shows_nothing_of_the_first_and_adds_up(
    pod: CollectorRegistry, tmp_path: Path
) -> None:
    """As in `cclm launch -- run --task nlvr_domain`."""

    def gauges() -> set[str]:
        """Those that the training process has set."""
        return {
            sample.name
            for family in pod.collect()
            for sample in family.samples
            if family.type == "gauge" and sample.name not in ("cclm_phase", "cclm_build_info")
        }

    environment = {**os.environ, METRICS_FOLDER: str(tmp_path), "LOCAL_RANK": "0", LAUNCHER_PID: "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", TWO_TRAININGS], env=environment, text=True, **pipes) as process:
        assert process.stdin is not None and process.stdout is not None

        def until(word: str) -> None:
            assert process.stdout is not None and process.stdout.readline() == f"{word}\n"

        def go_on() -> None:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

        until("preparing")
        go_on()
        until("done")
        assert phase(pod) == ["ended"]
        assert gauges() >= {"cclm_loss", "cclm_score_ratio", "cclm_checkpoint_step", "cclm_train_step"}
        go_on()
        until("preparing")
        assert phase(pod) == ["preparing"]
        assert gauges() == {"cclm_attempts"}  # the first training has saved
        go_on()
        until("done")
        assert phase(pod) == ["training"]
        assert not gauges() & {"cclm_score_ratio", "cclm_checkpoint_step"}
        [run] = [family.samples for family in pod.collect() if family.name == "cclm_run_info"]
        assert [sample.labels["task"] for sample in run] == ["reasoning"]
        assert pod.get_sample_value("cclm_train_step") == 5
        assert pod.get_sample_value("cclm_tokens_total", {"state": "real"}) == 25
        assert pod.get_sample_value("cclm_train_steps_total") == 2
        go_on()


def test_a_loader_process_that_waits_for_a_store_is_the_phase_of_the_pod(
    start: Start, pod: CollectorRegistry, tmp_path: Path
) -> None:
    start(5)
    environment = {**os.environ, METRICS_FOLDER: str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", LOADER], env=environment, text=True, **pipes) as loader:
        assert loader.stdout is not None and loader.stdout.readline() == "waits\n"
        assert phase(pod) == ["waiting_for_store"]
        loader.communicate("it is back\n", timeout=60)
    assert phase(pod) == ["training"]
    assert pod.get_sample_value("cclm_storage_calls_total", {"store": "s3", "outcome": "ok"}) == 1


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    own = CollectorRegistry()
    LauncherMetrics(Exported(own))
    served = Endpoint(0, PodCollector(tmp_path, own))
    yield served
    served.close()


def test_a_scrape_may_ask_for_some_metrics_alone(start: Start, endpoint: Endpoint) -> None:
    start(5)

    def answer(query: str) -> list[str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}/metrics?{query}", timeout=PATIENCE) as found:
            return [line for line in found.read().decode().splitlines() if not line.startswith("#")]

    assert answer("name%5B%5D=cclm_train_step") == ["cclm_train_step 5.0"]
    of_both = answer("name[]=cclm_train_steps_total&name[]=cclm_restarts_total")  # a process's, and its launcher's
    assert {line.partition("{")[0] for line in of_both} == {"cclm_train_steps_total 5.0", "cclm_restarts_total"}
    assert answer("name[]=cclm_nothing") == []


def test_prometheus_gets_open_metrics(endpoint: Endpoint) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{endpoint.port}/metrics", headers={"Accept": ACCEPT})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        text = answer.read().decode()
    assert text.endswith("# EOF\n") and "_created" not in text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["cclm_restarts"].type == "counter"
    assert families["cclm_phase"].type == "gauge"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_sign_of_life_is_for_everyone(endpoint: Endpoint, host: str) -> None:
    if host == "[::1]" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with urllib.request.urlopen(f"http://{host}:{endpoint.port}/healthz", timeout=PATIENCE) as answer:
        assert (answer.status, answer.read()) == (200, b"ok\n")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/healthz/x", "/metrics.json"])
def test_there_is_nothing_else(endpoint: Endpoint, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}{path}", timeout=PATIENCE)
    with caught.value as answer:
        assert answer.code == 404


class Recorder(list[Event]):
    """A sink that keeps the events."""

    def handle(self, event: Event) -> None:
        self.append(event)


def test_a_client_that_says_nothing_keeps_nobody_waiting(endpoint: Endpoint) -> None:
    with socket.create_connection(("127.0.0.1", endpoint.port)):
        with urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}/healthz", timeout=PATIENCE) as answer:
            assert answer.status == 200


def test_a_connection_that_says_nothing_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _SilentHandler.timeout == IDLE_TIMEOUT  # None: never
    monkeypatch.setattr(_SilentHandler, "timeout", 0.01)
    served = Endpoint(0, PodCollector(tmp_path))
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as idle:
        assert idle.recv(1) == b""
    served.close()
    assert capfd.readouterr().err == ""


def test_a_folder_that_cannot_be_removed_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process still writes into it."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    with folder_of_values(pytest.fail) as folder:
        with monkeypatch.context() as patch:
            patch.setattr(os, "rmdir", refuse)
            with folder_of_values(pytest.fail) as kept:
                pass
        assert folder is not None and kept is not None and Path(kept).is_dir()
    assert not Path(folder).exists()
    Path(kept).rmdir()


def test_metrics_without_a_temporary_folder_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(endpoint_module, "TemporaryDirectory", refuse)
    sentence = "metrics are not served: no temporary folder can be made (No space left on device)"
    notices = Recorder()
    for context in (serving_process(0), serving_metrics(0, Journal([notices]))):
        with context as served:
            assert served is None and METRICS_FOLDER not in os.environ
            assert os.environ[METRICS_WARNING] == sentence
        assert METRICS_WARNING not in os.environ
    assert caplog.messages == [sentence] and notices == [Notice(sentence)]


def test_a_port_that_is_taken_is_a_warning(endpoint: Endpoint, tmp_path: Path) -> None:
    warnings: list[str] = []
    with open_endpoint(endpoint.port, PodCollector(tmp_path), warnings.append) as second:
        assert second is None
    [warning] = warnings
    assert warning.startswith(f"metrics are not served: port {endpoint.port} cannot be had (")


def scrape(endpoint: Endpoint) -> bytes:
    """As Prometheus does."""
    headers = {"X-Prometheus-Scrape-Timeout-Seconds": "10"}
    request = urllib.request.Request(f"http://127.0.0.1:{endpoint.port}/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        text: bytes = answer.read()
    return text


def test_the_last_values_stay_for_whoever_scrapes_regularly(endpoint: Endpoint) -> None:
    told: list[str] = []
    answers: list[bytes] = []
    scrapes: list[threading.Thread] = []

    def scrape_again(sentence: str) -> None:
        """From another thread, since this one waits."""
        told.append(sentence)
        scrapes.append(threading.Thread(target=lambda: answers.append(scrape(endpoint))))
        scrapes[-1].start()

    endpoint.await_last_scrapes(scrape_again)
    assert told == []  # nobody has ever scraped
    scrape(endpoint)
    while not told:  # the server may count the scrape a moment after its answer has come
        endpoint.await_last_scrapes(scrape_again)
    assert told == ["waiting up to 30 s until the last metrics are scraped"]
    scrapes[0].join()
    assert b"cclm_phase" in answers[0]


def test_a_signal_ends_the_wait_for_scrapes_and_nothing_else(endpoint: Endpoint) -> None:
    told: list[str] = []
    before = signal.getsignal(signal.SIGTERM)

    def send_signal(sentence: str) -> None:
        told.append(sentence)
        os.kill(os.getpid(), signal.SIGTERM)

    scrape(endpoint)
    while not told:
        endpoint.await_last_scrapes(send_signal)
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_log_gets_to_know_that_a_port_is_taken(endpoint: Endpoint) -> None:
    with serving_process(endpoint.port) as second:
        assert second is None
        [event] = take_early_events()
        assert isinstance(event, Warned) and f"port {endpoint.port} cannot be had" in event.text
