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

from cclm.launch_contract import METRICS_FOLDER
from cclm.processes import has_ended

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

DEFAULT_PORT = 9400
"""Where a pod of a cluster serves its metrics."""
_GAUGES_OF_A_PROCESS = re.compile(r"gauge_live\w*_(\d+)\.db")


class PodCollector:
    """What a pod exports: the metrics of its training processes, and those of its launcher that no process has.

    Args:
        folder: where the training processes keep their values.
        own: the metrics of the launcher.
    """

    def __init__(self, folder: Path, own: CollectorRegistry | None = None) -> None:
        from prometheus_client import CollectorRegistry
        from prometheus_client.multiprocess import MultiProcessCollector

        self._folder, self._own = folder, own
        self._processes = MultiProcessCollector(CollectorRegistry(), str(folder))  # type: ignore[no-untyped-call]  # untyped in prometheus_client

    def collect(self) -> Iterator[Metric]:
        forget_dead_processes(self._folder)
        names = set()
        for metric in self._processes.collect():  # type: ignore[no-untyped-call]  # untyped in prometheus_client
            names.add(metric.name)
            yield metric
        for metric in [] if self._own is None else self._own.collect():
            if metric.name not in names:  # the phase: while processes train they know better than their launcher
                yield metric


def forget_dead_processes(folder: Path) -> None:
    """Remove the gauges of processes that have ended: their last values are not true any more. Counters stay."""
    for path in folder.glob("gauge_live*.db"):
        found = _GAUGES_OF_A_PROCESS.fullmatch(path.name)
        if found is not None and has_ended(int(found[1])):
            path.unlink(missing_ok=True)


class Endpoint:
    """Serves a collector on a port of all addresses of this machine until it is closed.

    Raises:
        OSError: the port is taken, or may not be used.
    """

    def __init__(self, port: int, collector: PodCollector) -> None:
        from prometheus_client import CollectorRegistry, make_wsgi_app

        registry = CollectorRegistry()
        registry.register(collector)
        metrics = make_wsgi_app(registry)

        def respond(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            path = environ.get("PATH_INFO", "/")
            if path == "/metrics":
                answer: Iterable[bytes] = metrics(environ, start_response)
                return answer
            status, text = ("200 OK", b"ok\n") if path == "/healthz" else ("404 Not Found", b"/metrics or /healthz\n")
            start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
            return [text]

        server_class = _DualStackServer if socket.has_dualstack_ipv6() else _Server
        self._server = make_server("", port, respond, server_class, handler_class=_SilentHandler)
        self.port: int = self._server.server_address[1]
        """The one that was asked for; for port 0, the one that the kernel chose."""
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

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


@contextmanager
def serving_process(port: int) -> Iterator[None]:
    """Serve the metrics of this process, which has no launcher that does it.

    Call it before anything imports prometheus_client, which looks at its variable when it is imported.
    """
    with TemporaryDirectory(prefix="cclm-metrics-") as folder:
        os.environ[METRICS_FOLDER] = folder
        from cclm.metrics.prometheus import Exported

        Exported().show_phase("preparing")  # what the first scrape shows, long before training is imported
        try:
            with open_endpoint(port, PodCollector(Path(folder)), logging.getLogger(__name__).warning):
                yield
        finally:
            del os.environ[METRICS_FOLDER]


class _Server(ThreadingMixIn, WSGIServer):
    """Each scrape has a thread of its own, so that a client that reads slowly keeps nobody waiting."""

    daemon_threads = True

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
    """Prints no line for each scrape."""

    def log_message(self, format: str, *args: object) -> None:
        pass
