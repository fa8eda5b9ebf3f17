"""What happens while a model is trained or measured: steps, evaluations, checkpoints, waiting."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from cclm.events.journal import Event


@dataclass(frozen=True)
class Started(Event):
    """A training is about to take its first step, or goes on."""

    task: str
    """`pretrain`, or the fine-tuning task."""
    step: int
    """Outer steps done before; 0: the training begins."""
    total_steps: int
    parameters: int
    """Parameters of the whole task, heads included."""
    processes: int
    device: str
    """Type of the device, such as `cuda`."""
    threads: int
    """Threads of torch, in each process."""
    records: Mapping[str, int]
    """By kind of batch: records, or training examples."""
    places: tuple[str, ...]
    """Folders of the run: `output_dir`, then `output_hdfs` if set."""
    details: str = ""
    """The training examples in words: their files, and what was left out."""
    backend: str | None = None
    """Backend of collectives: `nccl` or `gloo`; None in a single process."""
    network: str = ""
    """Transport of collectives, as NCCL calls it: `Socket`, `IB`, `AWS Libfabric`. Empty where NCCL does not say."""
    weights: str | None = None
    """In words: what a task that begins takes its weights from. None: nothing but the config, or the task goes on."""
    run: str = ""
    """The name by which the run knows its own checkpoints. Only the first process knows it."""
    checkpoint_bytes: int | None = None
    """Size of the checkpoint that the training goes on from. None on other processes than the first, or without one."""
    checkpoint_time: float | None = None
    """Unix time at which it was whole; None also where its store does not tell."""


@dataclass(frozen=True)
class EvaluationStarted(Event):
    """A model is about to be measured by a command that trains nothing."""

    task: str
    """As in `Started`."""
    weights: str
    """Where the model comes from: a checkpoint's folder, or a file."""
    step: int
    """Outer steps that the model was trained for; 0 for weights that do not say."""
    parameters: int
    processes: int
    device: str
    """Type of the device, such as `cuda`."""
    backend: str | None = None
    """As in `Started`."""
    network: str = ""
    """As in `Started`."""


@dataclass(frozen=True)
class NetworkMeasured(Event):
    """Processes of several nodes have measured an all-reduce before they train."""

    nodes: int
    processes: int
    backend: str
    """`nccl` or `gloo`."""
    network: str
    """As in `Started`."""
    bytes_per_second: float
    """What each link carries (bus bandwidth)."""
    warning: str = ""
    """What is wrong with it, in a few words; empty if nothing is."""


@dataclass(frozen=True)
class SettingsChanged(Event):
    """A training goes on with other settings than its checkpoint was saved with."""

    step: int
    """Of the checkpoint."""
    changes: tuple[str, ...]
    """Such as `optimizer.lr 0.0001 -> 0.0002`."""


@dataclass(frozen=True)
class WeightsIgnored(Event):
    """Initial weights are named, but the training goes on from a checkpoint and does not read them."""

    setting: str
    """`--checkpoint`, or the name of a setting."""
    path: str
    checkpoint: str
    """Folder of the checkpoint that the training goes on from."""


@dataclass(frozen=True)
class StepDone(Event):
    """One outer step is done. Emitted after every step."""

    step: int
    """Outer steps done."""


@dataclass(frozen=True)
class Interval(Event):
    """The means of one logging interval, over all processes."""

    step: int
    """Outer steps done."""
    total_steps: int
    losses: Mapping[str, float]
    """By "kind/name": the mean of each loss over the updates of its kind, not weighted."""
    lr: float
    """Of the first parameter group, in the last step."""
    grad_norms: Mapping[str, float]
    """By kind of batch: the mean norm of all gradients before clipping."""
    learnt: Mapping[str, float]
    """Parameters that are single numbers (the temperature), by name."""
    images_per_second: float
    texts_per_second: float
    seconds: float
    """Length of the interval."""
    skipped: Mapping[str, int]
    """Broken records of the run so far, by kind; kinds without any are left out."""
    eta_seconds: float | None = None
    """Time that the steps left take at the speed of this interval; None where it had no step."""
    epochs: Mapping[str, float] = field(default_factory=dict)
    """How many times the run has read each source; fractions count."""
    skipped_updates: Mapping[str, int] = field(default_factory=dict)
    """Updates left out since the run was started last, by kind; kinds without any are left out."""
    model_flops_per_second: float | None = None
    """Floating-point operations of forward and backward passes, padding left out; None where they are not counted."""
    model_flops_utilization: float | None = None
    """The same as a share of what all devices can do at most; None where that is not known, as on CPUs."""


@dataclass(frozen=True)
class UpdatesSkipped(Event):
    """Updates were left out, as their gradients were not finite."""

    step: int
    """Outer step, from 0, of the last one."""
    kinds: Mapping[str, int]
    """Their number by kind of batch, since the last such event."""
    total: int
    """Since this process began to train."""


@dataclass(frozen=True)
class Worked(Event):
    """What one process has trained since it began to train. Every process emits its own, just before each Interval
    and once more after all that follows the last step."""

    images: Mapping[str, int]
    """By kind of batch."""
    texts: Mapping[str, int]
    """By kind of batch; a translation counts with its source."""
    real_tokens: int
    """Tokens of all texts that were encoded, masked copies included."""
    computed_tokens: int
    """The same with padding."""
    seconds_by_part: Mapping[str, float]
    """Time of steps: `data` (waiting for it), `compute` (forward and backward), `optimizer`, `between` (all else), and
    `communication`, which is in no other part, where it can be told apart."""
    records_read: Mapping[str, int]
    """By source."""
    records_skipped: Mapping[str, Mapping[str, int]]
    """Broken records by source and reason."""
    device_bytes: Mapping[str, int] = field(default_factory=dict)
    """Memory of this process's GPU: `allocated`, `reserved`, and `peak` of what was allocated. Empty on a CPU."""
    model_flops: float = 0.0
    """Floating-point operations of forward and backward passes, padding left out."""


@dataclass(frozen=True)
class PhaseChanged(Event):
    """A process does something else from now on. Every process emits its own."""

    phase: str
    """`training`, `evaluating`, `saving` (waiting for a copy to memory, for the save before, or in the end for the last
    one), or `waiting_for_store`, of its own calls; `preparing` when that is over before the training begins. `ended`
    comes when everything is saved: on the first process before the last copies of small files, on others after them."""


@dataclass(frozen=True)
class Evaluated(Event):
    """A model was measured on one split, in every language."""

    split: str
    """`retrieval` (the held-out lists of pre-training), `validation`, `test` or `translated_test`."""
    step: int
    """Outer steps that the model was trained for; 0 for weights that do not say."""
    scores: Mapping[str, Mapping[str, float]]
    """By language: metrics by name, in percent."""
    examples: Mapping[str, int] = field(default_factory=dict)
    """By language: entries, or queries of both directions. Empty for held-out retrieval."""
    protocol: str | None = None
    """How a few-shot model was chosen; None for others."""


@dataclass(frozen=True)
class Validated(Evaluated):
    """The validation of fine-tuning: it decides which model is kept."""

    is_best: bool = False
    """Whether the model is better than all before."""


@dataclass(frozen=True)
class Selected(Event):
    """Fine-tuning is over: the model that did best in validation is the one to be tested."""

    step: int
    metric: str
    score: float
    """Mean over languages, in percent."""


@dataclass(frozen=True)
class Stopped(Event):
    """A signal ended the training early, after a checkpoint."""

    signal: str
    """`SIGTERM` or `Ctrl-C`."""
    step: int
    """Outer steps done."""
    total_steps: int


@dataclass(frozen=True)
class FileRefused(Event):
    """A log file takes no more lines, as on a full disk. They wait in memory, and training goes on."""

    path: str
    reason: str


@dataclass(frozen=True)
class LinesLost(Event):
    """The run is over, and a log file never took its last lines."""

    path: str
    lines: int


@dataclass(frozen=True)
class Saved(Event):
    """A checkpoint is whole in all of its places."""

    step: int
    place: str
    """All of them, in words."""
    bytes: int
    """Total size of the files that the manifest of one copy names."""
    seconds: float
    """From the copy to memory until it was durable."""
    held_up_seconds: float
    """How long training waited for the copy to memory; waiting for an earlier save is `Waited`."""
    is_best: bool = False
    """Whether this is the best model so far, in the folder `best`: it has no optimizer, so no run goes on from it."""
    time: float = field(default_factory=time.time, compare=False)
    """Unix time at which it was whole. The training process asks for that later, with its next log line."""


@dataclass(frozen=True)
class SaveFailed(Event):
    """A checkpoint could not be written to one place; a later one may be."""

    step: int
    place: str
    reason: str
    failures_in_a_row: int
    allowed: int
    """Number of failures in a row that ends the run."""


@dataclass(frozen=True)
class SavedByOther(Event):
    """Another attempt of this run has committed the same step, or a later one, first. Its files are the checkpoint."""

    step: int
    place: str | None = None
    """Where it was found; None: in all places, while this attempt was still writing."""


@dataclass(frozen=True)
class CleanupFailed(Event):
    """Checkpoints that are no longer needed, or leftovers of a save, could not be deleted."""

    folder: str
    reason: str
    is_place: bool = False
    """Whether `folder` is a whole place, where nothing was deleted, rather than the folder of one checkpoint."""


@dataclass(frozen=True)
class CheckpointSkipped(Event):
    """A torn checkpoint was passed over while the newest whole one was looked for."""

    folder: str
    reason: str
    attempt: str | None = None
    """The attempt that made it, where the contents of its files are damaged; None where it is torn otherwise."""


@dataclass(frozen=True)
class Waited(Event):
    """Training stood still."""

    step: int
    seconds: float
    waited_for: str
    """`earlier_save`: the save before, which was still under way."""
