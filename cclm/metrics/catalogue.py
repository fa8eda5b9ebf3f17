"""Every metric that cclm exports to Prometheus: its name, type, unit, labels and meaning, once.

`python -m cclm.metrics.catalogue` prints the table of `docs/metrics.md`. Names follow Prometheus' conventions: the
prefix `cclm_`, base units, `_total` for counters. No label holds a step, a path or the name of a run, apart from the
labels of `*_info`, so the number of series stays small. Nothing but the standard library is imported here: the
launcher, which must not import torch, exports some of them too.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kind(enum.Enum):
    """Type of a metric in Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"


class Scope(enum.Enum):
    """Whose number a series of one pod is, so that a reader knows whether to add pods up."""

    POD = "this pod"
    """The sum over the pod's processes; summed over pods it is the run's."""
    RUN = "the run"
    """The same in every pod that has it."""
    LAUNCHER = "this pod's launcher"
    FIRST = "the run, from the first process"
    """Only the pod of the first process has it."""


@dataclass(frozen=True)
class Metric:
    """One metric."""

    name: str
    kind: Kind
    scope: Scope
    help: str
    """A sentence: what the number is, with its unit where the name does not say."""
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] = ()
    """Label values that a counter is initialised with, so that it is 0 before it first happens."""


def _counter(name: str, scope: Scope, text: str, labels: tuple[str, ...] = (), *values: tuple[str, ...]) -> Metric:
    return Metric(name, Kind.COUNTER, scope, text, labels, values)


def _gauge(name: str, scope: Scope, text: str, labels: tuple[str, ...] = ()) -> Metric:
    return Metric(name, Kind.GAUGE, scope, text, labels)


PHASES = ("preparing", "rendezvous", "training", "evaluating", "saving", "waiting_for_store", "ended")
"""Values of the label of `PHASE`: what a pod is doing. Exactly one is 1."""
STORAGE_OUTCOMES = ("ok", "absent", "exists", "denied", "unavailable", "failed")
"""How a call to a store may end: the values of `cclm.storage.Outcome`."""
STORAGE_DIRECTIONS = ("read", "written")
BROKEN_REASONS = (
    "not JSON",
    "missing key",
    "wrong type",
    "bad base64",
    "missing image file",
    "broken image",
    "broken tar members",
    "empty caption",
    "no caption in a language of the config",
    "no second caption",
    "empty text",
    "box outside the image",
    "no region and no caption",
)
"""Why a record is broken: the kinds of `cclm.data.stored.records.BrokenRecord`."""

# ------------------------------------------------------------------------------------------------------------ progress
STEPS = _counter("cclm_train_steps_total", Scope.RUN, "Outer steps made, those that a restart makes again included.")
STEP = _gauge("cclm_train_step", Scope.RUN, "Outer steps of the run that are done.")
STEPS_PLANNED = _gauge("cclm_train_steps_planned", Scope.RUN, "Outer steps of the whole run.")
LAST_STEP_TIME = _gauge("cclm_last_step_timestamp_seconds", Scope.RUN, "Unix time at which the last outer step ended.")
SKIPPED_UPDATES = _counter(
    "cclm_updates_skipped_total",
    Scope.RUN,
    "Updates left out, as their gradients were not finite (`training.on_divergence`).",
    ("kind",),
)
EPOCHS = _gauge(
    "cclm_epochs_done", Scope.RUN, "Passes over the records of a source that are done, in part.", ("source",)
)
ETA = _gauge(
    "cclm_eta_seconds",
    Scope.RUN,
    "Time that the steps left take at the speed of the last interval, from the end of that interval on; absent after "
    "the end or a stop.",
)
PHASE = _gauge(
    "cclm_phase",
    Scope.POD,
    "1 for what the pod is doing, 0 for all else. `ended` is any end, also by a signal or an error; `cclm_exit_code`, "
    "which only a launcher has, says which.",
    ("phase",),
)

# ------------------------------------------------------------------------------------------------------------ learning
LOSS = _gauge("cclm_loss", Scope.RUN, "Mean of a loss in the last interval, not weighted.", ("kind", "loss"))
LEARNING_RATE = _gauge("cclm_learning_rate", Scope.RUN, "Of the first parameter group, in the last step.")
GRADIENT_NORM = _gauge(
    "cclm_gradient_norm", Scope.RUN, "Mean norm of all gradients before clipping, in the last interval.", ("kind",)
)
TEMPERATURE = _gauge("cclm_temperature", Scope.RUN, "Temperature of the contrastive losses.")
SCORE = _gauge(
    "cclm_score_ratio",
    Scope.RUN,
    "Last evaluation, from 0 to 1.",
    ("task", "split", "language", "metric"),
)

# --------------------------------------------------------------------------------------------------------------- speed
SAMPLES = _counter(
    "cclm_samples_total", Scope.POD, "Images trained on; where a kind of batch has none, pairs of texts.", ("kind",)
)
TEXTS = _counter("cclm_texts_total", Scope.POD, "Texts trained on; a translation counts with its source.", ("kind",))
TOKENS = _counter(
    "cclm_tokens_total",
    Scope.POD,
    "Tokens of the texts trained on: real ones, and those computed, with the padding where it is computed.",
    ("state",),
    ("real",),
    ("computed",),
)
STEP_SECONDS = _counter(
    "cclm_step_seconds_total",
    Scope.RUN,
    "Time of outer steps by part, by the clock of the first local process: waiting for data, forward and backward, "
    "optimizer, everything between steps and after the last one (log, checkpoints, evaluation; but for the wait until "
    "the last checkpoint is durable), and communication: collectives, with the wait for slower processes, where they "
    "go through gloo. NCCL's run on the GPU beside the rest, and are in the part that waits for it.",
    ("part",),
    ("data",),
    ("compute",),
    ("optimizer",),
    ("between",),
)
IMAGES_PER_SECOND = _gauge("cclm_images_per_second", Scope.RUN, "Images trained on a second, in the last interval.")
TEXTS_PER_SECOND = _gauge("cclm_texts_per_second", Scope.RUN, "Texts trained on a second, in the last interval.")
MODEL_FLOPS = _counter(
    "cclm_model_flops_total",
    Scope.POD,
    "Floating-point operations of the model's forward and backward passes, padding left out.",
)
UTILIZATION = _gauge(
    "cclm_model_flops_utilization_ratio",
    Scope.RUN,
    "Operations a second in the last interval, as a share of what the devices can do at most; absent where that is not "
    "known, as on CPUs.",
)
DEVICE_MEMORY = _gauge("cclm_device_memory_bytes", Scope.POD, "Memory of the first local device by state.", ("state",))

# ---------------------------------------------------------------------------------------------------------------- data
RECORDS_READ = _counter("cclm_records_read_total", Scope.POD, "Records read, broken ones included.", ("source",))
RECORDS_SKIPPED = _counter(
    "cclm_records_skipped_total",
    Scope.POD,
    "Broken records, by reason; one counts again in each epoch.",
    ("source", "reason"),
)
STORAGE_CALLS = _counter(
    "cclm_storage_calls_total", Scope.POD, "Calls to a store that ended, after all tries.", ("store", "outcome")
)
STORAGE_RETRIES = _counter("cclm_storage_retries_total", Scope.POD, "Tries made again during an outage.", ("store",))
STORAGE_BYTES = _counter(
    "cclm_storage_bytes_total", Scope.POD, "Bytes that calls read or wrote.", ("store", "direction")
)
STORAGE_OUT = _counter(
    "cclm_storage_outage_seconds_total", Scope.POD, "Time that calls lost to outages of a store.", ("store",)
)

# --------------------------------------------------------------------------------------------------------- checkpoints
CHECKPOINT_STEP = _gauge(
    "cclm_checkpoint_step",
    Scope.FIRST,
    "Outer steps of the newest checkpoint that a run can go on from; before the first save of a start, of the one that "
    "it went on from.",
)
CHECKPOINT_TIME = _gauge(
    "cclm_checkpoint_timestamp_seconds", Scope.FIRST, "Unix time at which the newest checkpoint was whole."
)
CHECKPOINT_BYTES = _gauge("cclm_checkpoint_bytes", Scope.FIRST, "Size of one copy of the newest checkpoint.")
CHECKPOINT_SECONDS = _gauge(
    "cclm_checkpoint_save_seconds",
    Scope.FIRST,
    "Time from the copy to memory until the newest checkpoint was durable; absent before the first save of a start.",
)
CHECKPOINTS = _counter(
    "cclm_checkpoints_saved_total", Scope.FIRST, "Checkpoints, whole in all places, that a run can go on from."
)
BEST_SAVED = _counter(
    "cclm_best_models_saved_total", Scope.FIRST, "Models saved in `best`, each in place of the one before."
)
CHECKPOINT_FAILURES = _counter(
    "cclm_checkpoint_failures_total", Scope.FIRST, "Checkpoints and best models that could not be written."
)
CHECKPOINT_BLOCKED = _counter(
    "cclm_checkpoint_blocked_seconds_total", Scope.FIRST, "Time that training stood still for checkpoints."
)

# ----------------------------------------------------------------------------------------------------------------- run
WORLD_SIZE = _gauge("cclm_world_size", Scope.RUN, "Training processes of the run.")
NODES = _gauge(
    "cclm_nodes",
    Scope.LAUNCHER,
    "Nodes of the run: wanted at least, wanted at most, present (0 while they meet).",
    ("state",),
)
RESTARTS = _counter(
    "cclm_restarts_total", Scope.LAUNCHER, "Times that processes were started again, by cause.", ("cause",)
)
RUN_RESTARTS = _gauge(
    "cclm_run_restarts",
    Scope.FIRST,
    "Times that processes were started again since the run began, over all launches and pods, by cause.",
    ("cause",),
)
ATTEMPTS = _gauge(
    "cclm_attempts",
    Scope.LAUNCHER,
    "Starts in a row without a newer checkpoint, this one included; 0 once one is saved.",
)
EXIT_CODE = _gauge("cclm_exit_code", Scope.LAUNCHER, "How this pod's part of the run ended; absent before.")
PREFLIGHT = _gauge(
    "cclm_preflight_ok",
    Scope.LAUNCHER,
    "1 for a check before the start that passed, 0 for one that did not.",
    ("check",),
)
BANDWIDTH = _gauge(
    "cclm_preflight_bandwidth_bytes_per_second",
    Scope.RUN,
    "Speed of an all-reduce over several nodes before training: what each link carries (bus bandwidth).",
)
TRANSPORT = _gauge(
    "cclm_transport_info",
    Scope.POD,
    "1 for what collectives use: the backend, and the network as NCCL calls it (Socket is TCP; empty: not known).",
    ("backend", "network"),
)
BUILD = _gauge("cclm_build_info", Scope.POD, "1, with the versions of what runs.", ("version", "torch", "python"))
RUN = _gauge("cclm_run_info", Scope.RUN, "1, with what this run is.", ("task", "device", "parameters"))

CATALOGUE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in the order above."""


def table() -> str:
    """The table of `docs/metrics.md`, in Markdown."""
    lines = ["| metric | type | labels | of | meaning |", "| --- | --- | --- | --- | --- |"]
    for metric in CATALOGUE:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind.value} | {labels} | {metric.scope.value} | {metric.help} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
