"""The only place where a config becomes objects: `pretrain` and `evaluate`, in reading order.

Whatever can be wrong is looked at first, before a model is built.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import torch
from torch import nn

from cclm import __version__, distributed
from cclm.checkpoints.find import WEIGHTS, find_checkpoint, is_checkpoint_folder
from cclm.checkpoints.initial import build_model, outline, restore_model
from cclm.checkpoints.load import load_model
from cclm.config.pretrain import PretrainConfig
from cclm.data.batches.loader import open_source
from cclm.data.stored.quarantine import Quarantine
from cclm.errors import UserError
from cclm.events import Journal
from cclm.metrics.report import Report, mean_rows
from cclm.metrics.sentences import Sentences
from cclm.model.cclm import CCLM
from cclm.tasks.pretrain import PretrainTask
from cclm.training import environment
from cclm.training.changes import changes, settings_of
from cclm.training.evaluation import RESULT, HeldOut
from cclm.training.loop import Run, Source, fit
from cclm.training.optimizer import build_optimizer
from cclm.training.plan import KINDS, Plan, steps_of_run
from cclm.training.preflight import check_divisible, load_checked_tokenizer
from cclm.training.resume import KEPT_FILES, refuse_another_run
from cclm.training.run_audit import RunAudit
from cclm.training.saving import Saving, Start
from cclm.training.schedule import warmup_steps


def pretrain(config: PretrainConfig, *, resume: str = "auto", stop: environment.StopSignal | None = None) -> int:
    """Pre-train as `config` says; every process of a run calls this.

    Args:
        resume: auto goes on from the newest whole checkpoint in `output_dir` and `output_hdfs`; never starts anew and
            sets aside what an earlier run left there; anything else is the folder of a checkpoint to start from.

    Returns:
        0, or after a checkpoint 143 if SIGTERM stopped this process, 130 if Ctrl-C did, 202 if it stopped another one.

    Raises:
        UserError: data, weights or settings do not serve; before training, unless training itself diverges.
        StoreUnavailable: a store stayed away for too long; the run can go on later.
    """
    # 1. What needs nothing but the config, the files and the number of processes.
    device = distributed.initialize()
    environment.set_threads(device)
    check_divisible(config, distributed.world_size())
    saving = Saving(config, journal := Journal([Sentences(print)]))
    tokenizer = load_checked_tokenizer(config)
    held_out = config.evaluation and HeldOut(config.evaluation, config.training.precision, tokenizer)
    sources = open_sources(config, saving.folder)
    records = {kind: source.num_records for kind, source in sources.items()}
    layouts = {kind: source.layout for kind, source in sources.items()}
    total = steps_of_run(config, records["images"])

    # 2. Where to start.
    start = saving.find_start(resume)
    begin = 0 if start is None else start.step
    refuse_another_run(start, config, records, layouts)

    # 3. Model, objective, optimizer.
    model = build_model(config.model, seed=config.seed) if start is None else empty_model(config, start)
    task = PretrainTask(model.to(device), config.objective)
    optimizer = build_optimizer(task, config.optimizer)
    saving.restore(start, model, optimizer)

    # 4. What happens between steps.
    report = Report(saving.folder, active=distributed.rank() == 0, total=total, start=begin)
    journal.sinks = [Sentences(report.say)]
    saving.publish(*KEPT_FILES)
    audit = RunAudit(saving.folder, sources, start and start.state.get("audit"), journal)
    facts = {**settings_of(config, start), "records": records, "layouts": layouts, "versions": versions()}

    def save(done: int) -> None:
        saving.save(done, model, optimizer, {**facts, "audit": audit.collect()})

    def evaluate(done: int) -> None:
        if held_out is not None:
            scores = held_out.measure(model, tokenizer, config.model.vision.image_size, device)
            held_out.publish_on_the_way(scores, done, report, saving.folder)
            saving.save_if_best(done, model, facts, mean_rows(scores)["mean"]["r_mean"])

    # 5. Train.
    report.forget_after(begin)
    report.say("\n".join([headline(config, model, device, records, begin, total), *changes(start, config)]))
    run = Run(
        task=distributed.wrap(task, device),
        loss_weights={f"loss_{name}": weight for name, weight in config.objective.weights},
        optimizer=optimizer,
        plan=Plan.of(config),
        sources=sources,
        training=config.training,
        checkpoints=config.checkpoints,
        clip_grad_norm=config.optimizer.clip_grad_norm,
        total_steps=total,
        warmup_steps=warmup_steps(config.schedule, total),
        seed=config.seed,
        device=device,
        report=report,
        save=save,
        before=audit.earlier,
        hear=saving.poll,
        evaluate=None if held_out is None else evaluate,
        stop=stop or environment.StopSignal(),
    )
    with closing(report), saving:
        code = finish(run, fit(run, begin), evaluate)
    distributed.shutdown()
    return code


def finish(run: Run, done: int, evaluate: Callable[[int], None]) -> int:
    """What follows the last step; returns the exit code."""
    if done >= run.total_steps:
        with run.stop.leave_at_once():  # the model is saved
            evaluate(done)
        return 0
    run.report.say(
        f"stopped by {run.stop.name} after step {done} of {run.total_steps}; the same command goes on from there"
    )
    return run.stop.exit_code


def empty_model(config: PretrainConfig, start: Start) -> CCLM:
    """The model of the config, to be filled from a checkpoint whose names and shapes are checked first.

    Raises:
        UserError: the checkpoint is of another model.
    """
    if start.checkpoint is not None:
        load_model(start.checkpoint, outline(config.model))  # copying onto the meta device checks, and moves nothing
    return CCLM(config.model)


def evaluate(config: PretrainConfig, weights: str) -> None:
    """Print the retrieval table of a model and write `retrieval.json` into its places.

    Args:
        weights: a checkpoint folder, a run's folder (its newest checkpoint), both on any store, or a published `.th`
            file.

    Raises:
        UserError: no evaluation in the config, or no such model.
    """
    device = distributed.initialize()
    environment.set_threads(device)
    if config.evaluation is None:
        raise UserError("the config has no evaluation: name held-out lists in evaluation.files (language: file)")
    saving = Saving(config, Journal([Sentences(print)]))
    tokenizer = load_checked_tokenizer(config)
    held_out = HeldOut(config.evaluation, config.training.precision, tokenizer)
    step = 0
    if is_checkpoint_folder(weights):
        checkpoint = find_checkpoint(weights, WEIGHTS)
        model, step = restore_model(config.model, checkpoint), checkpoint.step
    else:
        model = build_model(config.model.model_copy(update={"weights": weights}))
    report = Report(saving.folder, active=distributed.rank() == 0)
    with closing(report), saving:
        scores = held_out.measure(model.to(device), tokenizer, config.model.vision.image_size, device)
        held_out.publish(scores, step, report, saving.folder)
        saving.publish(RESULT)
    distributed.shutdown()


def open_sources(config: PretrainConfig, output_dir: Path) -> dict[str, Source]:
    """The sources of the config by kind; the first process goes ahead, so that indexes are built once."""
    sources: dict[str, Source] = {}
    rank = distributed.rank()
    quarantine = Quarantine(output_dir, rank)
    for is_turn in (rank == 0, rank != 0):
        if is_turn:
            for kind in KINDS:
                if getattr(config.data, kind) is not None:
                    sources[kind] = open_source(
                        kind, config, rank=rank, world_size=distributed.world_size(), quarantine=quarantine
                    )
        distributed.barrier()
    return sources


def versions() -> dict[str, str]:
    """Of what wrote a checkpoint."""
    return {"cclm": __version__, "torch": torch.__version__, "python": platform.python_version()}


def headline(
    config: PretrainConfig, model: nn.Module, device: torch.device, records: Mapping[str, int], start: int, total: int
) -> str:
    """What is about to run, in a few lines."""
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    processes = distributed.world_size()
    where = f"{processes} process{'es' if processes > 1 else ''} on {device.type}"
    if device.type == "cpu":
        where += f", {torch.get_num_threads()} threads each"
    counted = ", ".join(f"{count:,} {kind}" for kind, count in records.items())
    begin = f"resuming after step {start}" if start else "starting"
    places = " and ".join(place for place in (config.output_dir, config.output_hdfs) if place is not None)
    return f"{begin}: {total} steps, {millions:.1f} M parameters, {where}\nrecords: {counted}\noutput: {places}"
