"""Events as metrics of Prometheus: what they mean stands in `cclm.metrics.catalogue`.

A process that trains keeps its values in small files, one set a process, in the folder that the variable
CCLM_METRICS_FOLDER names (`cclm.metrics.metric_values`). Whoever serves the endpoint reads these files, so a scrape
never waits for training, and what a killed process has counted stays counted. Without the variable nothing is exported,
and prometheus_client is not imported.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from cclm import __version__
from cclm.events import (
    Evaluated,
    EvaluationStarted,
    Event,
    Interval,
    NetworkMeasured,
    PhaseChanged,
    Saved,
    SaveFailed,
    Started,
    StepDone,
    UpdatesSkipped,
    Waited,
    Worked,
)
from cclm.launch_contract import LAUNCHER_PID, METRICS_FOLDER
from cclm.metrics import catalogue
from cclm.metrics.catalogue import Kind, Metric, Scope

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from cclm.metrics.metric_values import Values


def is_exported() -> bool:
    """Whether this process is to keep metrics for an endpoint."""
    return METRICS_FOLDER in os.environ


class Exported:
    """Sets and counts metrics of the catalogue.

    Args:
        registry: where they are collected from; None: whoever serves them reads them from the files of this process.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        from cclm.metrics import metric_values  # imports prometheus_client: only where metrics are exported

        self._values: Values
        if registry is None:
            self._values = metric_values.values_of_process(os.environ[METRICS_FOLDER])
        else:
            self._values = memory = metric_values.MemoryValues()
            registry.register(memory)
        self._counted: dict[tuple[str, tuple[str, ...]], float] = {}

    def declare(self, *metrics: Metric) -> None:
        """Make counters begin with 0, so that the first thing they count is an increase."""
        for metric in metrics:
            if metric.kind is Kind.COUNTER and not metric.labels:
                self.increase(metric, 0)
            for values in metric.values:
                self.increase(metric, 0, *values)

    def begin_training(self) -> None:
        """Show no gauge of an earlier training of this process any more. Counters go on.

        A launch keeps its count of attempts, which is not about one training.
        """
        self._values.forget_gauges(keep=(catalogue.ATTEMPTS,))

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """Set a gauge."""
        self._values.set(metric, labels, value)

    def show_only(self, metric: Metric, values: Mapping[tuple[str, ...], float]) -> None:
        """Set a gauge, and show no other series of it than these.

        Args:
            values: by the values of the labels.
        """
        self._values.set_all(metric, values)

    def show_phase(self, phase: str) -> None:
        """Set the gauge of one phase to 1, and those of all others to 0."""
        for each in catalogue.PHASES:
            self.set(catalogue.PHASE, float(each == phase), each)

    def show_build(self) -> None:
        """Set the gauge that holds the versions of what runs."""
        self.set(catalogue.BUILD, 1, __version__, _version_of("torch"), platform.python_version())

    def increase(self, metric: Metric, amount: float, *labels: str) -> None:
        """Add to a counter."""
        self._values.add(metric, labels, amount)

    def increase_to(self, metric: Metric, total: float, *labels: str) -> None:
        """Add what `total`, counted since this object was made, is above that of the last call.

        A time that is the difference of two clocks may go back a little. Then nothing is added until it is above again.
        """
        key = (metric.name, labels)
        before = self._counted.get(key, 0.0)
        self.increase(metric, max(total - before, 0.0), *labels)
        self._counted[key] = max(total, before)


class PrometheusSink:
    """Keeps the metrics of one training, or standalone evaluation, of this process.

    Args:
        exported: where values go.
        is_local_first: whether this is the first process of its pod, which exports what all processes would say alike.
        is_launched: whether `cclm launch` has started this process, and counts attempts.
    """

    def __init__(self, exported: Exported, *, is_local_first: bool, is_launched: bool = False) -> None:
        self._exported = exported
        self._is_launched = is_launched
        self._is_local_first = is_local_first
        self._task = ""
        exported.begin_training()
        if is_local_first:
            exported.show_build()
            exported.show_phase("preparing")
        scopes = {Scope.POD, Scope.RUN, Scope.FIRST} if is_local_first else {Scope.POD}
        exported.declare(*(metric for metric in catalogue.CATALOGUE if metric.scope in scopes))

    def handle(self, event: Event) -> None:
        if isinstance(event, Worked):
            self._count_work(event)
        if not self._is_local_first:
            return
        match event:
            case StepDone():
                self._exported.increase(catalogue.STEPS, 1)
                self._exported.set(catalogue.STEP, event.step)
                self._exported.set(catalogue.LAST_STEP_TIME, time.time())
            case Interval():
                self._show_interval(event)
            case UpdatesSkipped():
                for kind, count in event.kinds.items():
                    self._exported.increase(catalogue.SKIPPED_UPDATES, count, kind)
            case Started():
                self._show_start(event)
            case EvaluationStarted():
                self._show_run(event)
            case NetworkMeasured():
                self._exported.set(catalogue.BANDWIDTH, event.bytes_per_second)
            case PhaseChanged():
                self._exported.show_phase(event.phase)
                if event.phase == "ended":
                    self._exported.show_only(catalogue.ETA, {})
            case Evaluated():
                self._show_scores(event)
            case Saved():
                self._show_save(event)
            case SaveFailed():
                self._exported.increase(catalogue.CHECKPOINT_FAILURES, 1)
            case Waited():
                self._exported.increase(catalogue.CHECKPOINT_BLOCKED, event.seconds)

    def _count_work(self, event: Worked) -> None:
        """What every process adds to the counts of its pod."""
        for kind, texts in event.texts.items():
            images = event.images.get(kind, 0)
            self._exported.increase_to(catalogue.SAMPLES, images if images > 0 else texts, kind)
            self._exported.increase_to(catalogue.TEXTS, texts, kind)
        self._exported.increase_to(catalogue.TOKENS, event.real_tokens, "real")
        self._exported.increase_to(catalogue.TOKENS, event.computed_tokens, "computed")
        self._exported.increase_to(catalogue.MODEL_FLOPS, event.model_flops)
        for source, total in event.records_read.items():
            self._exported.increase_to(catalogue.RECORDS_READ, total, source)
        for source, by_reason in event.records_skipped.items():
            for reason, total in by_reason.items():
                self._exported.increase_to(catalogue.RECORDS_SKIPPED, total, source, reason)
        if self._is_local_first:
            for part, seconds in event.seconds_by_part.items():
                self._exported.increase_to(catalogue.STEP_SECONDS, seconds, part)
            for state, size in event.device_bytes.items():
                self._exported.set(catalogue.DEVICE_MEMORY, size, state)

    def _show_start(self, event: Started) -> None:
        self._show_run(event)
        self._exported.set(catalogue.STEPS_PLANNED, event.total_steps)
        self._exported.set(catalogue.STEP, event.step)
        if event.checkpoint_bytes is not None:
            self._exported.set(catalogue.CHECKPOINT_STEP, event.step)
            self._exported.set(catalogue.CHECKPOINT_BYTES, event.checkpoint_bytes)
        if event.checkpoint_time is not None:
            self._exported.set(catalogue.CHECKPOINT_TIME, event.checkpoint_time)
        for kind in event.records:
            for metric in (catalogue.SAMPLES, catalogue.TEXTS, catalogue.RECORDS_READ, catalogue.SKIPPED_UPDATES):
                self._exported.increase(metric, 0, kind)
            for reason in catalogue.BROKEN_REASONS:
                self._exported.increase(catalogue.RECORDS_SKIPPED, 0, kind, reason)
        if event.backend == "gloo":
            self._exported.increase(catalogue.STEP_SECONDS, 0, "communication")

    def _show_run(self, event: Started | EvaluationStarted) -> None:
        """What a training and an evaluation say alike."""
        self._task = event.task
        self._exported.set(catalogue.WORLD_SIZE, event.processes)
        self._exported.set(catalogue.RUN, 1, event.task, event.device, str(event.parameters))
        if event.backend is not None:
            self._exported.set(catalogue.TRANSPORT, 1, event.backend, event.network)

    def _show_interval(self, event: Interval) -> None:
        """What an interval lacks, such as losses of a kind that no step of it trained, is shown no more."""
        losses: dict[tuple[str, ...], float] = {}
        for key, value in event.losses.items():
            kind, _, name = key.partition("/")
            losses[kind, name.removeprefix("loss_")] = value
        self._exported.show_only(catalogue.LOSS, losses)
        self._exported.show_only(catalogue.GRADIENT_NORM, {(kind,): norm for kind, norm in event.grad_norms.items()})
        self._exported.set(catalogue.LEARNING_RATE, event.lr)
        if "temperature" in event.learnt:
            self._exported.set(catalogue.TEMPERATURE, event.learnt["temperature"])
        self._exported.set(catalogue.IMAGES_PER_SECOND, event.images_per_second)
        self._exported.set(catalogue.TEXTS_PER_SECOND, event.texts_per_second)
        for metric, number in (
            (catalogue.UTILIZATION, event.model_flops_utilization),
            (catalogue.ETA, event.eta_seconds),
        ):
            self._exported.show_only(metric, {} if number is None else {(): number})
        for source, passes in event.epochs.items():
            self._exported.set(catalogue.EPOCHS, passes, source)

    def _show_scores(self, event: Evaluated) -> None:
        for language, metrics in event.scores.items():
            for metric, percent in metrics.items():
                self._exported.set(catalogue.SCORE, percent / 100, self._task, event.split, language, metric)

    def _show_save(self, event: Saved) -> None:
        self._exported.increase(catalogue.CHECKPOINT_BLOCKED, event.held_up_seconds)
        if event.is_best:
            self._exported.increase(catalogue.BEST_SAVED, 1)
            return
        self._exported.set(catalogue.CHECKPOINT_STEP, event.step)
        self._exported.set(catalogue.CHECKPOINT_TIME, event.time)
        self._exported.set(catalogue.CHECKPOINT_BYTES, event.bytes)
        self._exported.set(catalogue.CHECKPOINT_SECONDS, event.seconds)
        self._exported.increase(catalogue.CHECKPOINTS, 1)
        if self._is_launched:
            self._exported.set(catalogue.ATTEMPTS, 0)  # until this process ends, it knows better than its launcher


def _version_of(package: str) -> str:
    """Its version, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def sink_of_process(environment: Mapping[str, str] = os.environ) -> PrometheusSink | None:
    """The sink of this training process; None where nothing is exported."""
    if not is_exported():
        return None
    return PrometheusSink(
        Exported(), is_local_first=environment.get("LOCAL_RANK", "0") == "0", is_launched=LAUNCHER_PID in environment
    )
