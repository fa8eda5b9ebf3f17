"""The launcher's events as metrics, and the endpoint of its pod, which outlives the training processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cclm import storage
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
from cclm.launch_contract import METRICS_FOLDER, METRICS_NOTICE, METRICS_WARNING
from cclm.metrics import catalogue

if TYPE_CHECKING:
    from cclm.metrics.endpoint import Endpoint, PodCollector
    from cclm.metrics.prometheus import Exported

log = logging.getLogger(__name__)

_MEMBERSHIP = "membership"
"""The cause of a restart that follows no failure: a node joins, or comes back."""


class LauncherMetrics:
    """A sink that keeps what only the launcher knows: nodes, restarts by cause, attempts, how it ended, the phase."""

    def __init__(self, exported: Exported) -> None:
        self._exported = exported
        for cause in (*(cause.name.lower() for cause in Cause), _MEMBERSHIP):
            exported.increase(catalogue.RESTARTS, 0, cause)
        exported.show_build()
        exported.show_phase("preparing")

    def handle(self, event: Event) -> None:
        match event:
            case WaitingForNodes():
                self._exported.show_phase("rendezvous")
                self._exported.set(catalogue.NODES, event.min_nodes, "wanted_at_least")
                self._exported.set(catalogue.NODES, event.max_nodes, "wanted_at_most")
                self._exported.set(catalogue.NODES, 0, "present")
            case NodesMet():
                if event.node_rank > 0:  # another node counts them
                    self._exported.show_only(catalogue.RUN_RESTARTS, {})
                self._exported.show_phase("preparing")
                self._exported.set(catalogue.NODES, event.nodes, "present")
            case NodeJoining() | Rejoining():
                self._exported.increase(catalogue.RESTARTS, 1, _MEMBERSHIP)
            case Restarted() | NodeLeft() | RoundBroken():
                self._exported.increase(catalogue.RESTARTS, 1, event.cause.lower())
            case RestartsCounted():
                counts = {_MEMBERSHIP: 0} | dict(event.restarts)  # one series says that this pod counts them
                self._exported.show_only(catalogue.RUN_RESTARTS, {(cause,): counts[cause] for cause in counts})
            case AttemptsCounted():
                self._exported.set(catalogue.ATTEMPTS, event.attempts)
            case PreflightChecked():
                self._exported.set(catalogue.PREFLIGHT, float(event.problem is None), event.check)
            case Ended():
                self._exported.show_phase("ended")
                self._exported.set(catalogue.EXIT_CODE, event.exit_code)


class _Rounds:
    """A sink that renews, with each start of the processes, what they inherit and what they have left."""

    def __init__(self, collector: PodCollector) -> None:
        self._collector = collector
        self._has_started = False

    def handle(self, event: Event) -> None:
        match event:
            case WaitingForNodes():
                self._collector.begin_round()
            case NodesMet() if self._has_started:
                _forget_sentences()  # the log has them
            case NodesMet():
                self._has_started = True


@contextmanager
def serving_metrics(port: int | None, journal: Journal) -> Iterator[Endpoint | None]:
    """Serve the metrics of this launcher, its own calls to stores included, and of its processes.

    Args:
        port: None: serve nothing.
        journal: gets a sink, and sentences about the port.
    """
    if port is None:
        yield None
        return
    from prometheus_client import CollectorRegistry

    from cclm.metrics.endpoint import PodCollector, folder_of_values, found_port, open_endpoint
    from cclm.metrics.prometheus import Exported
    from cclm.metrics.store_metrics import StoreMetrics
    from cclm.metrics.waiting import Waiter

    def warn(text: str) -> None:
        journal.emit(Notice(text))
        os.environ[METRICS_WARNING] = text

    registry = CollectorRegistry()
    exported = Exported(registry)
    metrics = LauncherMetrics(exported)
    with folder_of_values(warn) as folder:
        try:
            if folder is None:
                yield None
                return
            collector = PodCollector(Path(folder), registry)
            with open_endpoint(port, collector, warn) as endpoint:
                journal.sinks.append(_Rounds(collector))
                if endpoint is not None:
                    os.environ[METRICS_FOLDER] = folder  # the processes that are started inherit it
                    journal.sinks.append(metrics)
                    storage.set_observer(StoreMetrics(Waiter.LAUNCHER, exported))
                if endpoint is not None and port == 0:
                    os.environ[METRICS_NOTICE] = found_port(endpoint)
                    journal.emit(Notice(os.environ[METRICS_NOTICE]))
                yield endpoint
        finally:
            storage.set_observer(None)
            os.environ.pop(METRICS_FOLDER, None)
            _forget_sentences()


def last_progress(endpoint: Endpoint | None) -> dict[str, float]:
    """How far training has come on this node: `step`, `planned`, and the last mean of each loss as `KIND/LOSS`.

    Empty where no metrics are kept, and on nodes that do not keep those of the whole run.
    """
    if endpoint is None:
        return {}
    try:
        samples = [sample for metric in endpoint.collector.collect() for sample in metric.samples]
    except Exception as error:  # the exit code matters more
        log.debug("how far training came is not known: %s", error)
        return {}
    found: dict[str, float] = {}
    for sample in samples:
        if sample.name == catalogue.STEP.name:
            found["step"] = sample.value
        elif sample.name == catalogue.STEPS_PLANNED.name:
            found["planned"] = sample.value
        elif sample.name == catalogue.LOSS.name:
            found[f"{sample.labels['kind']}/{sample.labels['loss']}"] = sample.value
    return found if "step" in found else {}


def _forget_sentences() -> None:
    for name in (METRICS_NOTICE, METRICS_WARNING):
        os.environ.pop(name, None)
