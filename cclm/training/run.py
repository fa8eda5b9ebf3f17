"""The only place where a config becomes objects: `pretrain` and `evaluate`, in reading order.

Whatever can be wrong is looked at first, before a model is built.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from cclm import __version__, distributed
from cclm.checkpoints.initial import build_model, restore_model
from cclm.checkpoints.save import Checkpoint, find_checkpoint, load_optimizer, prune_checkpoints, save_checkpoint
from cclm.config import PretrainConfig
from cclm.data.loader import open_source
from cclm.data.quarantine import Quarantine
from cclm.errors import UserError
from cclm.launch.causes import EXIT_PEER_STOPPED, EXIT_PREEMPTED
from cclm.metrics.report import Report
from cclm.model.cclm import CCLM
from cclm.tasks.pretrain import PretrainTask
from cclm.training import environment
from cclm.training.audit import RunAudit
from cclm.training.evaluation import HeldOut
from cclm.training.loop import Run, Source, fit
from cclm.training.optimizer import build_optimizer
from cclm.training.plan import KINDS, Plan, steps_of_run
from cclm.training.preflight import check_divisible, check_writable, load_checked_tokenizer
from cclm.training.resume import Resume, find_start
from cclm.training.schedule import warmup_steps

KEPT_CHECKPOINTS = 2
"""Newest checkpoints kept while training; the one at the end is kept beside them."""


def pretrain(config: PretrainConfig, *, resume: Resume = "auto", stop: environment.StopSignal | None = None) -> int:
    """Pre-train as `config` says; every process of a run calls this.

    Args:
        resume: auto goes on from the newest whole checkpoint in `output_dir`; never moves all there aside, and starts.

    Returns:
        0, or after a checkpoint 143 when SIGTERM stopped this process, 202 when it stopped another one.

    Raises:
        UserError: data, weights or settings do not serve; before training, unless training itself diverges.
    """
    # 1. What needs nothing but the config, the files and the number of processes.
    device = distributed.initialize()
    environment.set_threads(device)
    check_divisible(config, distributed.world_size())
    output_dir = claim_output_dir(config)
    tokenizer = load_checked_tokenizer(config)
    held_out = config.evaluation and HeldOut(config.evaluation, config.training.precision, tokenizer)
    sources = open_sources(config, output_dir)
    records = {kind: source.num_records for kind, source in sources.items()}
    total = steps_of_run(config, records["images"])

    # 2. Where to start.
    checkpoint = find_start(output_dir, config, records, resume)
    start = 0 if checkpoint is None else checkpoint.step

    # 3. Model, objective, optimizer.
    model = model_at(checkpoint, config)
    task = PretrainTask(model.to(device), config.objective)
    optimizer = build_optimizer(task, config.optimizer)
    if checkpoint is not None:
        load_optimizer(checkpoint, optimizer)

    # 4. What happens between steps.
    report = Report(output_dir, active=distributed.rank() == 0, total=total, start=start)
    state = {"config": config.model_dump(mode="json"), "records": records, "versions": versions()}

    audit = RunAudit(output_dir, sources, None if checkpoint is None else checkpoint.state.get("audit"))

    def save(done: int) -> None:
        state["audit"] = audit.collect()
        if distributed.rank() == 0:
            write_checkpoint(output_dir, done, model, optimizer, state, is_final=done == total)
        report.say(f"saved step {done} to {output_dir}")

    def evaluate(done: int) -> None:
        if held_out is not None:
            scores = held_out.measure(model, tokenizer, config.model.vision.image_size, device)
            held_out.publish(scores, done, report, output_dir)

    # 5. Train.
    report.forget_after(start)
    report.say(headline(config, model, device, records, start, total))
    run = Run(
        task=distributed.wrap(task, device),
        loss_weights={f"loss_{name}": weight for name, weight in config.objective.weights},
        optimizer=optimizer,
        plan=Plan.of(config),
        sources=sources,
        training=config.training,
        clip_grad_norm=config.optimizer.clip_grad_norm,
        total_steps=total,
        warmup_steps=warmup_steps(config.schedule, total),
        seed=config.seed,
        device=device,
        report=report,
        save=save,
        evaluate=None if held_out is None else evaluate,
        stop=stop or environment.StopSignal(),
    )
    try:
        code = finish(run, fit(run, start), evaluate)
    finally:
        report.close()
    distributed.shutdown()
    return code


def finish(run: Run, done: int, evaluate: Callable[[int], None]) -> int:
    """What follows the last step; returns the exit code."""
    if done >= run.total_steps:
        with run.stop.leave_at_once():  # the model is saved
            evaluate(done)
        return 0
    run.report.say(f"stopped by SIGTERM after step {done} of {run.total_steps}; the same command goes on from there")
    return EXIT_PREEMPTED if run.stop.received else EXIT_PEER_STOPPED


def evaluate(config: PretrainConfig, weights: str) -> None:
    """Print the retrieval table of a model and write `retrieval.json` into `output_dir`.

    Args:
        weights: a checkpoint folder, a run's folder (its newest checkpoint), or a published `.th` file.

    Raises:
        UserError: no evaluation in the config, or no such model.
    """
    device = distributed.initialize()
    environment.set_threads(device)
    if config.evaluation is None:
        raise UserError("the config has no evaluation: name held-out lists in evaluation.files (language: file)")
    output_dir = claim_output_dir(config)
    tokenizer = load_checked_tokenizer(config)
    held_out = HeldOut(config.evaluation, config.training.precision, tokenizer)
    step = 0
    if Path(weights).is_dir():
        checkpoint = find_checkpoint(Path(weights))
        model, step = restore_model(config.model, checkpoint), checkpoint.step
    else:
        model = build_model(config.model.model_copy(update={"weights": weights}))
    report = Report(output_dir, active=distributed.rank() == 0)
    try:
        scores = held_out.measure(model.to(device), tokenizer, config.model.vision.image_size, device)
        held_out.publish(scores, step, report, output_dir)
    finally:
        report.close()
    distributed.shutdown()


def claim_output_dir(config: PretrainConfig) -> Path:
    """Create the folder of results, or say why it cannot be: after hours of training would be too late.

    Raises:
        UserError: it is a file, lies under one, or takes no files.
    """
    if distributed.rank() == 0:
        check_writable(Path(config.output_dir), "output_dir")
    distributed.barrier()
    return Path(config.output_dir)


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


def model_at(checkpoint: Checkpoint | None, config: PretrainConfig) -> CCLM:
    """The model where the run starts."""
    if checkpoint is None:
        return build_model(config.model, seed=config.seed)
    return restore_model(config.model, checkpoint)


def write_checkpoint(
    output_dir: Path, done: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict, *, is_final: bool
) -> None:
    """Save, then forget old ones.

    Raises:
        UserError: the disk does not take it.
    """
    try:
        save_checkpoint(output_dir, done, model, optimizer, state)
        prune_checkpoints(output_dir, KEPT_CHECKPOINTS + is_final)
    except OSError as error:
        raise UserError(f"the checkpoint of step {done} cannot be written to {output_dir}: {error}") from error


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
    return (
        f"{begin}: {total} steps, {millions:.1f} M parameters, {where}\nrecords: {counted}\noutput: {config.output_dir}"
    )
