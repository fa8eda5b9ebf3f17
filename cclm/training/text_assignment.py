"""Text assignment: pre-training for two images, on images with captions (docs/method.md, "Fine-tuning tasks").

The published code calls it `nlvr_domain`. The newest checkpoint is what `reasoning` starts from.
"""

from __future__ import annotations

import math
from collections import defaultdict

from torch import nn

from cclm import distributed
from cclm.config.finetune import TextAssignmentConfig
from cclm.config.optimization import OptimizerConfig
from cclm.config.pretrain import PretrainConfig
from cclm.config.sources import DataConfig
from cclm.data.stored.order import slots_of_rank
from cclm.errors import UserError
from cclm.training.environment import StopSignal
from cclm.training.finetuning import OneSource, build_task
from cclm.training.identity import text_assignment_identity
from cclm.training.options import FinetuneOptions
from cclm.training.preflight import load_checked_tokenizer
from cclm.training.pretraining import open_sources
from cclm.training.resume import Start
from cclm.training.run import Built, Course, Recipe, RunContext, open_context, start_process, train

KIND = "images"
"""Kind of batch of the one source."""


def train_text_assignment(
    config: TextAssignmentConfig, options: FinetuneOptions, *, stop: StopSignal | None = None
) -> int:
    """Train as `config` says; exit codes and errors are those of `run.train`."""
    if options.shots is not None or options.translated:
        raise UserError("--fewshot and --gmt are not for task text_assignment: give them to its fine-tuning, reasoning")
    device = start_process()
    check_batch_size(config)
    context = open_context(config, device)
    return train(TextAssignment(config, options, context), context, resume=options.resume, stop=stop)


class TextAssignment(Recipe[nn.Module]):
    """Trains the two-image task on one source of pre-training; nothing is validated or tested.

    Raises:
        UserError: tokenizer or data are unusable.
    """

    def __init__(self, config: TextAssignmentConfig, options: FinetuneOptions, context: RunContext) -> None:
        self.config: TextAssignmentConfig = config
        self.checkpoint = options.checkpoint
        load_checked_tokenizer(config)
        sources = open_sources(as_pretraining(config), context.saving.folder)
        records, training, batch_size = sources[KIND].num_records, config.training, config.data.images.batch_size
        identity = text_assignment_identity(config, records, sources[KIND].layout)
        steps = training.epochs * math.ceil((training.dataset_size or records) / batch_size)
        self.course = Course(
            sources=sources,
            plan=OneSource(KIND),
            total_steps=training.max_steps or steps,
            loss_weights=defaultdict(lambda: 1.0),
            training=training,
            identity=identity,
            facts={"identity": identity},
            evaluates=False,
            audited=sources,
            description=f"{records:,} images",
        )

    def build(self, start: Start | None) -> Built[nn.Module]:
        return build_task(self.config, self.checkpoint, start)


def check_batch_size(config: TextAssignmentConfig) -> None:
    """Check that each process gets at least two images: the wrong image of a text is drawn from its batch.

    Raises:
        UserError: it gets one, or the batch cannot be shared by the processes.
    """
    batch_size, processes = config.data.images.batch_size, distributed.world_size()
    if len(slots_of_rank("data.images.batch_size", batch_size, distributed.rank(), processes)) < 2:
        raise UserError(
            f"data.images.batch_size = {batch_size} gives each process one image, but text assignment draws the wrong "
            f"one from the others of its batch; give at least {2 * processes}"
        )


def as_pretraining(config: TextAssignmentConfig) -> PretrainConfig:
    """The pre-training config that reads the same images: sources are opened by it."""
    data = DataConfig(images=config.data.images, augment=config.data.augment, index_dir=config.data.index_dir)
    return PretrainConfig(
        seed=config.seed, model=config.model, data=data, optimizer=OptimizerConfig(), training=config.training
    )
