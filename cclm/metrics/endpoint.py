"""The endpoint of a pod: `/metrics` for Prometheus, and `/healthz` for whoever asks whether its process lives.

It answers from a thread of its own, out of files that the training processes write (`cclm.metrics.prometheus`). So it
answers at once while processes start, meet, hang or are gone.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from cclm.launch_contract import METRICS_FOLDER, METRICS_NOTICE, METRICS_WARNING
from cclm.metrics import catalogue
from cclm.metrics.catalogue import Kind
from cclm.metrics.scrapers import Client, Scrapers
from cclm.metrics.waiting import phase_with_waits, waiters
from cclm.processes import has_ended
from cclm.signals import signals_noted

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

log = logging.getLogger(__name__)

_MARK_OF_SCRAPES = "HTTP_X_PROMETHEUS_SCRAPE_TIMEOUT_SECONDS"
"""Header that Prometheus, and what scrapes as it does, sends with each scrape, as WSGI names it."""
_NOTICEABLE_WAIT = 1.0
"""Seconds."""
IDLE_TIMEOUT = 30.0
"""Seconds that a connection may send nothing, or take nothing, before it is closed."""
_GAUGES_OF_A_PROCESS = re.compile(r"gauge_live\w*_(\d+)\.db")


class PodCollector:
    """What a pod exports: the metrics of its training processes, and those of its launcher that no process has.

    Args:
        folder: where the training processes keep their values.
        own: the metrics of the launcher.
    """

    def __init__(self, folder: Path, own: CollectorRegistry | None = None) -> None:
        from cclm.metrics.metric_values import ValueReader

        self._folder, self._own = folder, own
        self._reader = ValueReader()

    def begin_round(self) -> None:
        """Processes are about to start again: what those before have left is no longer true."""
        forget_dead_processes(self._folder, keep_ended=False)

    def collect(self) -> Iterator[Metric]:
        forget_dead_processes(self._folder)
        found: dict[str, Metric] = {}
        for metric in self._reader.read(self._folder.glob("*.db")):
            found[metric.name] = metric
        for metric in [] if self._own is None else self._own.collect():
            if found.setdefault(metric.name, metric) is metric:
                continue
            if metric.type == Kind.COUNTER.value:  # the launcher calls stores, too
                _add(found[metric.name], metric)
            # A gauge of both is the phase: while processes train they know better than their launcher.
        if catalogue.PHASE.name in found:
            _show_waits(found[catalogue.PHASE.name], self._folder)
        yield from found.values()


def _add(total: Metric, more: Metric) -> None:
    """Add the samples of a counter to those of another one."""
    left = {tuple(sorted(sample.labels.items())): sample for sample in more.samples}
    for number, sample in enumerate(total.samples):
        if (other := left.pop(tuple(sorted(sample.labels.items())), None)) is not None:
            total.samples[number] = sample._replace(value=sample.value + other.value)
    total.samples += left.values()


def _show_waits(phases: Metric, folder: Path) -> None:
    """Make the gauges of the phase say if a process of the pod waits for a store."""
    on = next((sample.labels["phase"] for sample in phases.samples if sample.value == 1), None)
    if on is not None:
        phase = phase_with_waits(on, waiters(folder))
        phases.samples = [each._replace(value=float(each.labels["phase"] == phase)) for each in phases.samples]


def forget_dead_processes(folder: Path, *, keep_ended: bool = True) -> None:
    """Remove the gauges of processes that are gone: their last values are not true any more. Counters stay.

    Args:
        keep_ended: whether to keep the gauges of a process whose last phase is `ended`. They are results, which stay
            true until processes start again.
    """
    for path in folder.glob("gauge_live*.db"):
        found = _GAUGES_OF_A_PROCESS.fullmatch(path.name)
        if found is not None and has_ended(int(found[1])) and not (keep_ended and _is_of_ended(path)):
            path.unlink(missing_ok=True)


def _is_of_ended(path: Path) -> bool:
    """Whether the last phase in a file of gauges is `ended`."""
    from cclm.metrics.metric_values import ValueReader

    metrics = ValueReader().read([path])
    samples = [sample for metric in metrics if metric.name == catalogue.PHASE.name for sample in metric.samples]
    return any(sample.value == 1 and sample.labels["phase"] == "ended" for sample in samples)


@contextmanager
def folder_of_values(warn: Callable[[str], None]) -> Iterator[str | None]:
    """A new folder for the values of processes, for as long as the context lasts. It is None, after a warning, if
    no folder can be made.

    A process that still writes may keep it from being removed. How the run ended does not depend on that.
    """
    try:
        folder = TemporaryDirectory(prefix="cclm-metrics-", ignore_cleanup_errors=True)
    except OSError as error:
        warn(f"metrics are not served: no temporary folder can be made ({error.strerror or error})")
        yield None
        return
    with folder as path:
        yield path


class Endpoint:
    """Serves a collector on a port of all addresses of this machine until it is closed.

    Raises:
        OSError: the port is taken, or may not be used.
    """

    def __init__(self, port: int, collector: PodCollector) -> None:
        from prometheus_client import CollectorRegistry, make_wsgi_app

        self.collector = collector
        registry = CollectorRegistry(support_collectors_without_names=True)  # or `?name[]=` would leave out everything
        registry.register(collector)
        metrics = make_wsgi_app(registry)
        self._scrapers = Scrapers()

        def respond(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            path = environ.get("PATH_INFO", "/")
            if path == "/metrics":
                began = self._scrapers.now()
                return _Scrape(metrics(environ, start_response), lambda: self._count(environ, began))
            status, text = ("200 OK", b"ok\n") if path == "/healthz" else ("404 Not Found", b"/metrics or /healthz\n")
            start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
            return [text]

        server_class = _DualStackServer if socket.has_dualstack_ipv6() else _Server
        self._server = make_server("", port, respond, server_class, handler_class=_SilentHandler)
        self.port: int = self._server.server_address[1]
        """The one that was asked for; for port 0, the one that the kernel chose."""
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def _count(self, environ: dict[str, Any], began: float) -> None:
        client = Client(environ.get("REMOTE_ADDR", ""), environ.get("HTTP_USER_AGENT", ""))
        self._scrapers.add(client, began, announces_itself=_MARK_OF_SCRAPES in environ)

    def await_last_scrapes(self, notify: Callable[[str], None]) -> None:
        """Go on answering until everybody who scrapes regularly has the last values, but not for long.

        Call it in the main thread. SIGTERM and Ctrl-C end the waiting, and nothing else.

        Args:
            notify: gets a sentence if that may take a while.
        """
        end = self._scrapers.now()
        seconds = self._scrapers.wait_until(end) - end
        with signals_noted() as signals:
            if seconds >= _NOTICEABLE_WAIT:
                notify(f"waiting up to {seconds:.0f} s until the last metrics are scraped")
            self._scrapers.await_last_scrapes(end, lambda: bool(signals))

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def open_endpoint(port: int, collector: PodCollector, warn: Callable[[str], None]) -> Iterator[Endpoint | None]:
    """An endpoint for as long as the context lasts. A port that cannot be had is a warning, and None is served."""
    try:
        endpoint = Endpoint(port, collector)
    except OSError as error:
        warn(f"metrics are not served: port {port} cannot be had ({error.strerror or error})")
        yield None
        return
    try:
        yield endpoint
    finally:
        endpoint.close()


def found_port(endpoint: Endpoint) -> str:
    """What to tell a user who left the choice of the port to the kernel."""
    return f"metrics are served on port {endpoint.port}: http://localhost:{endpoint.port}/metrics"


@contextmanager
def serving_process(port: int) -> Iterator[Endpoint | None]:
    """Serve the metrics of this process, which has no launcher that does it."""

    def warn(text: str) -> None:
        log.warning(text)
        os.environ[METRICS_WARNING] = text

    with folder_of_values(warn) as folder:
        try:
            if folder is None:
                yield None
                return
            os.environ[METRICS_FOLDER] = folder
            from cclm.metrics.prometheus import Exported

            exported = Exported()
            exported.show_phase("preparing")  # what the first scrape shows, long before training is imported
            exported.show_build()
            with open_endpoint(port, PodCollector(Path(folder)), warn) as endpoint:
                if endpoint is not None and port == 0:
                    os.environ[METRICS_NOTICE] = found_port(endpoint)
                    print(os.environ[METRICS_NOTICE], flush=True)
                yield endpoint
        finally:
            for name in (METRICS_FOLDER, METRICS_NOTICE, METRICS_WARNING):
                os.environ.pop(name, None)


class _Scrape:
    """The answer to a scrape. The server closes it when all of it is sent.

    Args:
        answer: its parts.
        close: called then.
    """

    def __init__(self, answer: Iterable[bytes], close: Callable[[], None]) -> None:
        self._answer, self.close = answer, close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._answer)


class _Server(ThreadingMixIn, WSGIServer):
    """Each scrape has a thread of its own, so that a client that reads slowly keeps nobody waiting."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client has gone, or keeps still. That is no trouble of this program, so nothing is printed."""
        log.debug("a request from %s failed", client_address, exc_info=True)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's would look up the name of this machine, which can take seconds
        self.server_name, self.server_port = "localhost", self.server_address[1]
        self.setup_environ()


class _DualStackServer(_Server):
    """Answers on IPv6 and IPv4."""

    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _SilentHandler(WSGIRequestHandler):
    """Prints no line for each scrape, and gives up a client that keeps still."""

    timeout = IDLE_TIMEOUT

    def log_message(self, format: str, *args: object) -> None:
        pass
