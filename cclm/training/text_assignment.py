"""Text assignment: pre-training for two images, on images with captions (spec section 4, `nlvr_domain`)."""

from __future__ import annotations

import math
from collections import defaultdict

from cclm import distributed
from cclm.config import DataConfig, OptimizerConfig, PretrainConfig
from cclm.config_finetune import TextAssignmentConfig
from cclm.data.loader import open_source
from cclm.data.order import slots_of_rank
from cclm.data.quarantine import Quarantine
from cclm.errors import UserError
from cclm.metrics.report import Report
from cclm.training import environment
from cclm.training.finetune import OneSource, Options, headline, identity_values, refuse_other_run, weights_for
from cclm.training.initial_task import initial_task
from cclm.training.loop import Run, fit
from cclm.training.optimizer import build_optimizer
from cclm.training.preflight import load_checked_tokenizer
from cclm.training.run import versions
from cclm.training.run_folder import RunFolder
from cclm.training.schedule import warmup_steps

KIND = "images"


def train(config: TextAssignmentConfig, options: Options) -> int:
    """Train as `config` says; the newest checkpoint is what `reasoning` starts from.

    Returns:
        0, or 143 when SIGTERM stopped the run after a checkpoint.

    Raises:
        UserError: data, weights or settings do not serve; before training, unless training itself diverges.
    """
    if options.shots is not None or options.translated:
        raise UserError("--fewshot and --gmt are not for task text_assignment: give them to its fine-tuning, reasoning")
    device = distributed.initialize()
    environment.set_threads(device)
    batch_size = config.data.images.batch_size
    slots_of_rank("data.images.batch_size", batch_size, distributed.rank(), distributed.world_size())
    folder = RunFolder(config.output_dir)
    load_checked_tokenizer(config)
    source = open_images(config, folder)
    training = config.training
    steps = training.epochs * math.ceil((training.dataset_size or source.num_records) / batch_size)
    total = training.max_steps or steps
    identity = identity_values(config) | {"data.images.batch_size": batch_size, "records": source.num_records}

    start = folder.find_start(options.resume)
    if start is not None:
        refuse_other_run(start, identity)
    weights = None if start is not None else weights_for(config, options, training=True)
    task = initial_task(config, weights).to(device)
    optimizer = build_optimizer(task, config.optimizer)
    if start is not None:
        folder.restore(start, task, optimizer)
    done = 0 if start is None else start.step

    report = Report(folder.folder, active=distributed.rank() == 0, total=total, start=done)
    state = {"config": config.model_dump(mode="json"), "identity": identity, "versions": versions()}

    def save(step: int) -> None:
        folder.save(step, task, optimizer, state)
        report.say(f"saved step {step} to {folder.folder}")

    report.forget_after(done)
    report.say(headline(config, task, device, f"{source.num_records:,} images", weights, done, total))
    run = Run(
        task=distributed.wrap(task, device),
        loss_weights=defaultdict(lambda: 1.0),
        optimizer=optimizer,
        plan=OneSource(KIND),
        sources={KIND: source},
        training=training,
        clip_grad_norm=config.optimizer.clip_grad_norm,
        total_steps=total,
        warmup_steps=warmup_steps(config.schedule, total),
        seed=config.seed,
        device=device,
        report=report,
        save=save,
        evaluate=None,
    )
    try:
        done = fit(run, done)
        if done < total:
            report.say(f"stopped by SIGTERM after step {done} of {total}; the same command goes on from there")
    finally:
        report.close()
    distributed.shutdown()
    return 0 if done >= total else environment.EXIT_STOPPED


def open_images(config: TextAssignmentConfig, folder: RunFolder):  # noqa: ANN201 - cclm.data.loader's own type
    """The images of the config, read as pre-training reads them; the first process goes ahead and builds indexes."""
    data = DataConfig(images=config.data.images, augment=config.data.augment, index_dir=config.data.index_dir)
    pretraining = PretrainConfig(
        seed=config.seed, model=config.model, data=data, optimizer=OptimizerConfig(), training=config.training
    )
    rank = distributed.rank()
    quarantine = Quarantine(folder.folder, rank)
    for is_turn in (rank == 0, rank != 0):
        if is_turn:
            source = open_source(
                KIND, pretraining, rank=rank, world_size=distributed.world_size(), quarantine=quarantine
            )
        distributed.barrier()
    return source
