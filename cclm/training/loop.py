"""The training loop: one visible step."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from cclm import distributed
from cclm.config.output import CheckpointConfig
from cclm.config.pretrain import TrainingConfig
from cclm.data.stored.quarantine import ReadCount
from cclm.events import Interval, Journal, PhaseChanged, StepDone, Worked
from cclm.metrics.running import RunningValues, Update, means, sums_and_counts
from cclm.metrics.throughput import Throughput
from cclm.training.divergence import GRADIENT_NORM, Divergence
from cclm.training.environment import IntervalClock, StopSignal, autocast, seed_of
from cclm.training.schedule import lr_factor

_NORM = f"/{GRADIENT_NORM}"
"""End of the keys under which the norms of the gradients are averaged, beside the losses."""


class Source(Protocol):
    """Endless batches of one kind, from any position (`cclm.data.batches.loader`)."""

    @property
    def num_records(self) -> int: ...

    @property
    def read(self) -> int: ...

    @property
    def skipped(self) -> Mapping[str, int]: ...

    def batches(self, start: int) -> Generator[Any, None, None]: ...


@runtime_checkable
class SkipsBroken(Protocol):
    """A source that skips broken records, up to a limit."""

    def refuse_too_many_broken(self, now: ReadCount, before: ReadCount) -> None: ...


class StepPlan(Protocol):
    """Which kinds of batch a step trains (`cclm.training.plan`)."""

    def kinds_of_step(self, step: int) -> tuple[str, ...]: ...

    def batches_before(self, step: int) -> dict[str, int]: ...


@dataclass(frozen=True)
class Run:
    """What the loop works with; `cclm.training.run` builds it."""

    task: nn.Module
    """`task(batch, generator)` -> losses by name, each (); wrapped for distributed training."""
    loss_weights: Mapping[str, float]
    """By name of loss; their weighted sum is what is trained. What is logged is not weighted."""
    optimizer: torch.optim.Optimizer
    """Its groups start with their base rates."""
    plan: StepPlan
    sources: Mapping[str, Source]
    """By kind of batch."""
    training: TrainingConfig
    clip_grad_norm: float | None
    total_steps: int
    warmup_steps: int
    seed: int
    device: torch.device
    journal: Journal
    checkpoints: CheckpointConfig
    save: Callable[[int], None]
    """Write a checkpoint. The argument is the number of outer steps done. Called on every process."""
    evaluate: Callable[[int], None] | None
    """Measure the model. The argument is the number of outer steps done. Called on every process."""
    read_before: Mapping[str, ReadCount] = field(default_factory=dict)
    """What was read of the sources up to where this run goes on, over all processes."""
    poll_saves: Callable[[], None] = lambda: None
    """Report how earlier saves went; called on every process with each line of the log."""
    count_flops: Callable[[Any], float] | None = None
    """Floating-point operations of a step of this process with a batch, whose tensors are on the CPU."""
    computes_padding: bool = True
    """Whether steps compute the padding of texts, too."""
    peak_flops: float | None = None
    """Those that the device can do in a second at most; None where that is not known."""
    stop: StopSignal = field(default_factory=StopSignal)


def fit(run: Run, start: int, throughput: Throughput | None = None) -> int:
    """Train from outer step `start` to the end, or until SIGTERM or Ctrl-C; returns the outer steps done.

    Everything random in a step follows from (seed, step, kind, rank), so no random state is carried from step to step.

    Raises:
        NonFiniteLossError: training has diverged; found at the end of the logging interval.
    """
    task, optimizer, settings = run.task, run.optimizer, run.training
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    base_rates = [group["lr"] for group in optimizer.param_groups]
    generator = torch.Generator(run.device)
    values, throughput = RunningValues(), throughput or begin_counting(run)
    updates: list[Update] = []
    divergence = Divergence(settings, optimizer, run.journal)
    clock = IntervalClock(run.checkpoints.save_minutes)
    task.train()
    run.journal.emit(PhaseChanged("training"))
    positions = run.plan.batches_before(start)
    with run.stop as stop, ExitStack() as opened:
        # Sources are closed whatever happens: loader processes that are left over would keep a failed run from ending.
        batches = {
            kind: opened.enter_context(closing(source.batches(positions[kind]))) for kind, source in run.sources.items()
        }
        for step in range(start, run.total_steps):
            set_learning_rates(optimizer, base_rates, lr_factor(step, run.total_steps, run.warmup_steps))
            for kind in run.plan.kinds_of_step(step):
                throughput.lap("between")
                loaded = next(batches[kind])
                throughput.add(kind, loaded)
                batch = loaded.to(run.device, non_blocking=True)
                throughput.lap("data")
                seed = seed_of(run.seed, step, kind, distributed.rank())
                torch.manual_seed(seed)  # dropout and stochastic depth
                generator.manual_seed(seed)
                with autocast(settings.precision, run.device):
                    losses = task(batch, generator)
                distributed.backward(sum(run.loss_weights[name] * loss for name, loss in losses.items()))
                throughput.lap("compute")
                norm = nn.utils.clip_grad_norm_(parameters, run.clip_grad_norm or math.inf)
                divergence.watch(norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                throughput.lap("optimizer")
                values.add(step, kind, {**losses, GRADIENT_NORM: norm})

            done = step + 1
            throughput.steps += 1
            stop.remember()
            run.journal.emit(StepDone(done))
            signalled = stop.received
            stopping, is_time = distributed.any_process(signalled, clock.is_due())
            if stopping:
                stop.settle(signalled)
            is_last = stopping or done == run.total_steps
            log_due = is_last or is_due(done, settings.log_every)
            evaluate_due = run.evaluate is not None and not is_last and is_due(done, settings.evaluate_every)
            save_due = is_last or evaluate_due or is_time
            save_due = save_due or is_due(done, settings.save_every, run.checkpoints.keep_every)
            if log_due or save_due:
                updates += divergence.made(values.take())
            if log_due:
                run.poll_saves()
                log(run, done, updates, throughput, divergence.skipped)
                updates = []
            if save_due:
                run.journal.emit(PhaseChanged("saving"))
                run.save(done)
                clock.restart()
                run.journal.emit(PhaseChanged("training"))
            if run.evaluate is not None and evaluate_due:
                with stop.leave_at_once():  # saved just above
                    run.journal.emit(PhaseChanged("evaluating"))
                    run.evaluate(done)
                run.journal.emit(PhaseChanged("training"))
                task.train()
                throughput.restart()
            if stopping:
                return done
    return max(start, run.total_steps)


def begin_counting(run: Run) -> Throughput:
    """What counts the work of a run from now on, for `fit`; only `count_rest` needs it after that."""
    return Throughput(run.count_flops, distributed.collective_seconds, run.computes_padding)


def count_rest(run: Run, throughput: Throughput) -> None:
    """Count the time since the last lap, of the last save and the last evaluations, as time between steps."""
    throughput.lap("between")
    run.journal.emit(_worked(run, throughput))


def _worked(run: Run, throughput: Throughput) -> Worked:
    return Worked(
        images=dict(throughput.images),
        texts=dict(throughput.texts),
        real_tokens=throughput.real_tokens,
        computed_tokens=throughput.computed_tokens,
        seconds_by_part=dict(throughput.seconds_by_part),
        records_read={kind: source.read for kind, source in run.sources.items()},
        records_skipped={kind: dict(source.skipped) for kind, source in run.sources.items()},
        device_bytes=device_bytes(run.device),
        model_flops=throughput.flops,
    )


def set_learning_rates(optimizer: torch.optim.Optimizer, base_rates: list[float], factor: float) -> None:
    """Give each parameter group its base rate times `factor`."""
    for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
        group["lr"] = rate * factor


def is_due(done: int, *intervals: int | None) -> bool:
    """Whether one of the intervals ends with outer step `done`; None: never."""
    return any(every is not None and done % every == 0 for every in intervals)


def log(run: Run, done: int, updates: list[Update], throughput: Throughput, skipped_updates: Mapping[str, int]) -> None:
    """Report the means of all updates since the last report, over all processes."""
    mine = throughput.take()
    skipped = {f"skipped/{kind}": sum(source.skipped.values()) for kind, source in run.sources.items()}
    read = {f"read/{kind}": source.read for kind, source in run.sources.items()}
    counts = {"images": mine.images, "texts": mine.texts, "flops": mine.flops}
    totals = sums_and_counts(updates) | counts | skipped | read
    run.journal.emit(_worked(run, throughput))
    totals = distributed.sum_over_processes(totals, run.device)
    images, texts, flops = (totals.pop(name) / mine.seconds for name in counts)
    peak = None if run.peak_flops is None else run.peak_flops * distributed.world_size()
    now = {kind: ReadCount(int(totals.pop(f"read/{kind}")), int(totals.pop(f"skipped/{kind}"))) for kind in run.sources}
    before = {kind: run.read_before.get(kind, ReadCount()) for kind in run.sources}
    averages = dict(sorted(means(totals).items()))
    norms = {key.removesuffix(_NORM): averages.pop(key) for key in list(averages) if key.endswith(_NORM)}
    run.journal.emit(
        Interval(
            step=done,
            total_steps=run.total_steps,
            losses=averages,
            lr=run.optimizer.param_groups[0]["lr"],
            grad_norms=norms,
            learnt=learnt_scalars(run.task),
            images_per_second=images,
            texts_per_second=texts,
            seconds=mine.seconds,
            skipped={kind: count for kind in run.sources if (count := now[kind].broken + before[kind].broken)},
            eta_seconds=mine.seconds / mine.steps * (run.total_steps - done) if mine.steps else None,
            epochs={
                kind: (now[kind].read + before[kind].read) / source.num_records for kind, source in run.sources.items()
            },
            skipped_updates=dict(skipped_updates),
            model_flops_per_second=None if run.count_flops is None else flops,
            model_flops_utilization=None if run.count_flops is None or peak is None else flops / peak,
        )
    )
    for kind, source in run.sources.items():  # the same answer on all processes
        if isinstance(source, SkipsBroken):
            source.refuse_too_many_broken(now[kind], before[kind])


def device_bytes(device: torch.device) -> dict[str, int]:
    """Memory of this process's GPU, as the allocator counts it; the GPU is not asked. Empty on a CPU."""
    if device.type != "cuda":
        return {}
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "peak": torch.cuda.max_memory_allocated(device),
    }


def learnt_scalars(task: nn.Module) -> dict[str, float]:
    """Parameters that are single numbers (the temperature), by the last part of their name."""
    return {
        name.rpartition(".")[2]: parameter.item() for name, parameter in task.named_parameters() if parameter.ndim == 0
    }
