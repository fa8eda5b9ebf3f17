"""The course of every training, and of an evaluation by itself, in reading order.

What differs between pre-training, fine-tuning and text assignment is a `Recipe`; `pretraining.py`, `finetuning.py` and
`text_assignment.py` have one each. A recipe turns its config into objects: tokenizer, sources of batches, plan of steps
and model. `train` builds the optimizer and runs the loop. Whatever can be wrong is checked first, before a model is
built.
"""

from __future__ import annotations

import logging
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from cclm import __version__, distributed
from cclm.config.finetune import FinetuneConfig
from cclm.config.pretrain import PretrainConfig, TrainingConfig
from cclm.events import EvaluationStarted, Journal, PhaseChanged, Started, Stopped
from cclm.gradient_compression import compress_gradients
from cclm.metrics.report import Report, open_journal
from cclm.metrics.status_file import EVALUATION
from cclm.metrics.tensorboard_files import EVALUATION_FOLDER
from cclm.metrics.tensorboard_files import FOLDER as TENSORBOARD
from cclm.tasks.step_flops import FlopCounter
from cclm.training import environment
from cclm.training.changes import changes, settings_of
from cclm.training.device_peak import peak_flops
from cclm.training.identity import refuse_another_run
from cclm.training.loop import Run, Source, StepPlan, begin_counting, count_rest, fit
from cclm.training.network import check_network
from cclm.training.optimizer import build_optimizer
from cclm.training.own_files import OwnFiles
from cclm.training.resume import Start
from cclm.training.run_audit import Counted, RunAudit
from cclm.training.run_files import KEPT_FILES
from cclm.training.saving import Saving
from cclm.training.schedule import warmup_steps
from cclm.training.store_waits import observe_stores

log = logging.getLogger(__name__)

Config = PretrainConfig | FinetuneConfig
Model = TypeVar("Model", bound=nn.Module)


# ------------------------------------------------------------------------------------------------- what a recipe gives


@dataclass(frozen=True)
class Course:
    """What a run trains on, and for how long: known before a model is built."""

    sources: Mapping[str, Source]
    """By kind of batch."""
    plan: StepPlan
    total_steps: int
    """Outer steps."""
    loss_weights: Mapping[str, float]
    """By name of loss."""
    training: TrainingConfig
    """Precision, and the intervals of the loop."""
    identity: Mapping[str, Any]
    """What must not change between the starts of the run (`cclm.training.identity`)."""
    facts: Mapping[str, Any]
    """JSON values that every checkpoint holds, beside settings and versions."""
    evaluates: bool
    """Whether `Recipe.evaluate` is to be called between steps, every `training.evaluate_every` of them."""
    audited: Mapping[str, Counted] = field(default_factory=dict)
    """The sources whose reading is counted in the run's audit."""
    description: str = ""
    """The training examples in words, for the log."""
    repeated: str | None = None
    """Key of the lines of metrics.jsonl that a run writes after the checkpoint of their step: a run that goes on from
    that checkpoint writes them again."""


@dataclass(frozen=True)
class Built(Generic[Model]):
    """What is trained, on the CPU. A run that goes on fills it from its checkpoint."""

    task: nn.Module
    """`task(batch, generator)` -> losses by name, each ()."""
    model: Model
    """What checkpoints hold: the task, or a part of it."""
    weights: str | None = None
    """In words: where the initial weights come from."""
    warning: str | None = None
    """What is unusual about them, for the log."""


@dataclass(frozen=True)
class Trained(Generic[Model]):
    """What validation and tests work with, between and after the steps."""

    model: Model
    """On the run's device."""
    facts: Mapping[str, Any]
    """JSON values that every checkpoint holds."""


class Recipe(ABC, Generic[Model]):
    """What one kind of training brings to `train`. Every process calls everything."""

    config: Config
    course: Course
    checkpoint: str | None = None
    """What `--checkpoint` names."""

    @abstractmethod
    def build(self, start: Start | None) -> Built[Model]:
        """The task with its initial weights or, where `start` is given, to be filled from that checkpoint.

        Raises:
            UserError: the weights or the checkpoint are unusable, or of another model.
        """

    def computes_padding(self, device: torch.device) -> bool:
        """Whether steps on this device compute the padding of texts, too."""
        return True

    def state(self) -> Mapping[str, Any]:
        """JSON values that the next checkpoint is to hold beside the facts."""
        return {}

    def begin(self, step: int, trained: Trained[Model]) -> None:
        """Do what comes before the first step.

        Args:
            step: outer steps done before.
        """

    def evaluate(self, step: int, trained: Trained[Model]) -> None:
        """Measure the model after `step` outer steps. Its checkpoint has been saved before."""

    def end(self, step: int, trained: Trained[Model]) -> None:
        """Do what comes after the last step; its checkpoint is saved."""


# ------------------------------------------------------------------------------------------------------------- the run


@dataclass(frozen=True)
class RunContext:
    """What a run has from its first moment on."""

    device: torch.device
    journal: Journal
    saving: Saving


def start_process() -> torch.device:
    """Join the other processes of the run; returns the device of this one."""
    device = distributed.initialize()
    environment.set_threads(device)
    return device


def open_context(config: Config, device: torch.device) -> RunContext:
    """Open the places of a run.

    Raises:
        UserError: a place takes no files.
        NodeError: collectives compute a wrong sum.
        StoreUnavailable: a place does not answer.
    """
    journal = open_journal(is_first=distributed.rank() == 0)
    observe_stores(journal)
    check_network(journal)
    return RunContext(device, journal, Saving(config, journal))


def train(recipe: Recipe[Model], context: RunContext, *, resume: str, stop: environment.StopSignal | None) -> int:
    """Train as a recipe says; every process of a run calls this.

    Args:
        resume: auto goes on from the newest whole checkpoint in `output_dir` and `output_hdfs`; never starts anew and
            sets aside what an earlier run left there; anything else is the folder of a checkpoint to start from.

    Returns:
        0, or after a checkpoint 143 if SIGTERM stopped this process, 130 if Ctrl-C did, 202 if it stopped another one.

    Raises:
        UserError: checkpoint or weights are unusable; before training, unless training itself diverges.
        StoreUnavailable: a store stayed away for too long; the run can go on later.
    """
    config, course = recipe.config, recipe.course
    device, journal, saving = context.device, context.journal, context.saving

    # 1. Where to start.
    start = saving.find_start(resume)
    begin = 0 if start is None else start.step
    with saving.no_trace_if_refused():
        refuse_another_run(start, course.identity)

        # 2. Model, objective, optimizer.
        built = recipe.build(start)
        task = built.task.to(device)
        optimizer = build_optimizer(task, config.optimizer)
        saving.restore(start, built.model, optimizer)

    # 3. What happens between steps.
    report, own_files = _open_report(context, total=course.total_steps, start=begin), OwnFiles(saving.places)
    if config.tensorboard:
        report.add_tensorboard(TENSORBOARD, begin)
    saving.publish(*KEPT_FILES)
    audit = None
    if course.audited:
        audit = RunAudit(saving.folder, course.audited, None if start is None else start.state.get("audit"), journal)
    facts = {**settings_of(config, start, recipe.checkpoint), **course.facts, "versions": versions()}
    trained = Trained(built.model, facts)

    def save(done: int) -> None:
        counts = {} if audit is None else {"audit": audit.collect()}
        saving.save(done, built.model, optimizer, {**facts, **counts, **recipe.state()})
        own_files.send()

    # 4. Train.
    report.forget_after(begin, again=course.repeated)
    _warn_at_start(course, built, device)
    journal.emit(_started(recipe, context, built, start))
    for change in changes(start, config, recipe.checkpoint):
        journal.emit(change)
    run = Run(
        task=data_parallel(task, course.training, device),
        loss_weights=course.loss_weights,
        optimizer=optimizer,
        plan=course.plan,
        sources=course.sources,
        training=course.training,
        checkpoints=config.checkpoints,
        clip_grad_norm=config.optimizer.clip_grad_norm,
        total_steps=course.total_steps,
        warmup_steps=warmup_steps(config.schedule, course.total_steps),
        seed=config.seed,
        device=device,
        journal=journal,
        save=save,
        read_before={} if audit is None else audit.earlier,
        poll_saves=saving.poll,
        count_flops=FlopCounter(built.task, config.model, distributed.world_size()).count_real,
        computes_padding=recipe.computes_padding(device),
        peak_flops=peak_flops(device, uses_bfloat16=environment.uses_bfloat16(course.training.precision, device)),
        evaluate=(lambda done: recipe.evaluate(done, trained)) if course.evaluates else None,
        stop=environment.StopSignal() if stop is None else stop,
    )
    with run.stop.hurrying(saving.hurry), own_files, report, saving:
        recipe.begin(begin, trained)
        code = _fit_and_finish(run, begin, lambda done: recipe.end(done, trained))
    distributed.shutdown()
    return code


def data_parallel(task: nn.Module, training: TrainingConfig, device: torch.device) -> nn.Module:
    """`task` for the processes of a run, which exchange gradients as `training` says."""
    wrapped = distributed.wrap(task, device)
    compress_gradients(wrapped, training.grad_compress)
    return wrapped


@contextmanager
def evaluating(
    config: Config, context: RunContext, model: nn.Module, weights: str, step: int, results: Sequence[str]
) -> Iterator[None]:
    """Around a standalone evaluation: its files are opened, and brought to all places in the end.

    Args:
        model: what is evaluated.
        weights: where the model comes from, for the log.
        step: outer steps that the model was trained for.
        results: names or patterns of the files that the evaluation writes.
    """
    report, saving = _open_report(context), context.saving
    if config.tensorboard:
        report.add_tensorboard(EVALUATION_FOLDER, None)
    files = (*results, EVALUATION, f"{EVALUATION_FOLDER}/*")
    with report, saving:
        if saving.places.mirrors:  # from the beginning, as an evaluation may take hours
            saving.publish(*files)
        context.journal.emit(
            EvaluationStarted(
                task=config.task,
                weights=weights,
                step=step,
                parameters=sum(parameter.numel() for parameter in model.parameters()),
                processes=distributed.world_size(),
                device=context.device.type,
                backend=distributed.backend(),
                network=distributed.network(),
            )
        )
        context.journal.emit(PhaseChanged("evaluating"))
        yield
        saving.publish(*files)
    distributed.shutdown()


def _open_report(context: RunContext, *, total: int = 0, start: int = 0) -> Report:
    """The files of a run; arguments as those of Report."""
    is_first, places = distributed.rank() == 0, context.saving.places
    return Report(context.journal, places.folder, is_first=is_first, total=total, start=start, log=places.log_name)


def versions() -> dict[str, str]:
    """Versions of what wrote a checkpoint."""
    return {"cclm": __version__, "torch": torch.__version__, "python": platform.python_version()}


def _fit_and_finish(run: Run, begin: int, end: Callable[[int], None]) -> int:
    """Train from step `begin` on, do what follows the last step, and count the time of both; returns the exit code."""
    throughput = begin_counting(run)
    done = fit(run, begin, throughput)
    if done >= run.total_steps:
        with run.stop.leave_at_once():  # the model is saved
            run.journal.emit(PhaseChanged("evaluating"))
            end(done)
        count_rest(run, throughput)
        run.journal.emit(PhaseChanged("saving"))
        return 0
    count_rest(run, throughput)
    run.journal.emit(Stopped(run.stop.name, done, run.total_steps))
    return run.stop.exit_code


def _warn_at_start(course: Course, built: Built[Model], device: torch.device) -> None:
    if distributed.rank() == 0:
        environment.warn_of_slow_bfloat16(course.training.precision, device)
        if built.warning is not None:
            log.warning(built.warning)


def _started(recipe: Recipe[Model], context: RunContext, built: Built[Model], start: Start | None) -> Started:
    config, course = recipe.config, recipe.course
    checkpoint = None if start is None else start.checkpoint
    return Started(
        task=config.task,
        step=0 if start is None else start.step,
        total_steps=course.total_steps,
        parameters=sum(parameter.numel() for parameter in built.model.parameters()),
        processes=distributed.world_size(),
        device=context.device.type,
        threads=torch.get_num_threads(),
        records={kind: source.num_records for kind, source in course.sources.items()},
        places=tuple(place for place in (config.output_dir, config.output_hdfs) if place is not None),
        details=course.description,
        backend=distributed.backend(),
        network=distributed.network(),
        weights=built.weights,
        run=context.saving.run,
        checkpoint_bytes=None if checkpoint is None else checkpoint.size,
        checkpoint_time=None if checkpoint is None else checkpoint.saved_time(),
    )
