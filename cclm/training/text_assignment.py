"""Text assignment: pre-training for two images, on images with captions (spec section 4, `nlvr_domain`)."""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import closing
from pathlib import Path

from cclm import distributed
from cclm.config.finetune import TextAssignmentConfig
from cclm.config.optimization import OptimizerConfig
from cclm.config.pretrain import PretrainConfig
from cclm.config.sources import DataConfig
from cclm.data.batches.loader import SourceStream, open_source
from cclm.data.stored.order import slots_of_rank
from cclm.data.stored.quarantine import Quarantine
from cclm.errors import UserError
from cclm.events import Journal
from cclm.metrics.report import Report
from cclm.metrics.sentences import Sentences
from cclm.training import environment
from cclm.training.changes import changes, refuse_other_run, settings_of
from cclm.training.finetune import OneSource, Options, headline, identity_values, weights_for
from cclm.training.initial_task import empty_task, initial_task
from cclm.training.loop import Run, fit
from cclm.training.optimizer import build_optimizer
from cclm.training.preflight import load_checked_tokenizer
from cclm.training.resume import KEPT_FILES
from cclm.training.run import finish, versions
from cclm.training.run_audit import RunAudit
from cclm.training.saving import Saving
from cclm.training.schedule import warmup_steps

KIND = "images"


def train(config: TextAssignmentConfig, options: Options, *, stop: environment.StopSignal | None = None) -> int:
    """Train as `config` says; the newest checkpoint is what `reasoning` starts from.

    Returns:
        as `run.pretrain`.

    Raises:
        UserError: data, weights or settings do not serve; before training, unless training itself diverges.
    """
    if options.shots is not None or options.translated:
        raise UserError("--fewshot and --gmt are not for task text_assignment: give them to its fine-tuning, reasoning")
    device = distributed.initialize()
    environment.set_threads(device)
    batch_size = config.data.images.batch_size
    slots = slots_of_rank("data.images.batch_size", batch_size, distributed.rank(), distributed.world_size())
    if len(slots) < 2:
        raise UserError(
            f"data.images.batch_size = {batch_size} gives each process one image, but text assignment draws the wrong "
            f"one from the others of its batch; give at least {2 * distributed.world_size()}"
        )
    journal = Journal([Sentences(print)])
    saving = Saving(config, journal)
    load_checked_tokenizer(config)
    source = open_images(config, saving.folder)
    training = config.training
    steps = training.epochs * math.ceil((training.dataset_size or source.num_records) / batch_size)
    total = training.max_steps or steps
    identity = identity_values(config) | {"data.images.batch_size": batch_size, "records": source.num_records}
    identity["how the files of data.images are cut"] = source.layout

    start = saving.find_start(options.resume)
    begin = 0 if start is None else start.step
    refuse_other_run(start, identity)
    weights = weights_for(config, options, training=True) if start is None else None
    task = (initial_task(config, weights) if start is None else empty_task(config)).to(device)
    optimizer = build_optimizer(task, config.optimizer)
    saving.restore(start, task, optimizer)

    report = Report(saving.folder, active=distributed.rank() == 0, total=total, start=begin)
    journal.sinks = [Sentences(report.say)]
    saving.publish(*KEPT_FILES)
    audit = RunAudit(saving.folder, {KIND: source}, start and start.state.get("audit"), journal)
    facts = {**settings_of(config, start, options.checkpoint), "identity": identity, "versions": versions()}
    report.forget_after(begin)
    head = headline(config, task, device, f"{source.num_records:,} images", weights, begin, total)
    report.say("\n".join([head, *changes(start, config, options.checkpoint)]))
    run = Run(
        task=distributed.wrap(task, device),
        loss_weights=defaultdict(lambda: 1.0),
        optimizer=optimizer,
        plan=OneSource(KIND),
        sources={KIND: source},
        training=training,
        checkpoints=config.checkpoints,
        clip_grad_norm=config.optimizer.clip_grad_norm,
        total_steps=total,
        warmup_steps=warmup_steps(config.schedule, total),
        seed=config.seed,
        device=device,
        report=report,
        save=lambda step: saving.save(step, task, optimizer, {**facts, "audit": audit.collect()}),
        before=audit.earlier,
        hear=saving.poll,
        evaluate=None,
        stop=stop or environment.StopSignal(),
    )
    with closing(report), saving:
        code = finish(run, fit(run, begin), lambda step: None)
    distributed.shutdown()
    return code


def open_images(config: TextAssignmentConfig, output_dir: Path) -> SourceStream:
    """The images of the config, read as pre-training reads them; the first process goes ahead and builds indexes."""
    data = DataConfig(images=config.data.images, augment=config.data.augment, index_dir=config.data.index_dir)
    pretraining = PretrainConfig(
        seed=config.seed, model=config.model, data=data, optimizer=OptimizerConfig(), training=config.training
    )
    rank = distributed.rank()
    quarantine = Quarantine(output_dir, rank)
    for is_turn in (rank == 0, rank != 0):
        if is_turn:
            source = open_source(
                KIND, pretraining, rank=rank, world_size=distributed.world_size(), quarantine=quarantine
            )
        distributed.barrier()
    return source
