"""Fine-tuning on a downstream task, with validation after epochs; then the test of the model that did best."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from cclm.config.finetune import FinetuneConfig
from cclm.config.pretrain import TrainingConfig
from cclm.data.annotations.read import AnnotatedConfig
from cclm.training.environment import StopSignal
from cclm.training.finetuning_inputs import read_inputs, tested_split
from cclm.training.identity import finetuning_identity
from cclm.training.initial_task import empty_task, initial_task, named_weights
from cclm.training.options import FinetuneOptions
from cclm.training.resume import Start
from cclm.training.run import Built, Course, Recipe, RunContext, Trained, open_context, start_process, train
from cclm.training.task_results import publish_results
from cclm.training.task_tests import TaskTests
from cclm.training.validation import (
    Validations,
    Validator,
    selection_metric,
    total_steps,
    validation_interval,
    validation_steps,
)

KIND = "examples"
"""Kind of batch of the one source."""


def finetune(config: FinetuneConfig, options: FinetuneOptions, *, stop: StopSignal | None = None) -> int:
    """Fine-tune as `config` says, then test the model that did best in validation.

    Exit codes and errors are those of `run.train`.
    """
    if not isinstance(config, AnnotatedConfig):
        raise TypeError(f"task {config.task} is not fine-tuned on annotations")
    context = open_context(config, start_process())
    return train(Finetuning(config, options, context), context, resume=options.resume, stop=stop)


class Finetuning(Recipe[nn.Module]):
    """Trains a task on one annotated training set.

    Raises:
        UserError: tokenizer, data or answer list are unusable.
    """

    def __init__(self, config: AnnotatedConfig, options: FinetuneOptions, context: RunContext) -> None:
        self.config: AnnotatedConfig = config
        self.checkpoint = options.checkpoint
        self._options, self._context = options, context
        self._inputs = read_inputs(config, options)
        self._tests = TaskTests(config, self._inputs.tokenizer, context.device)
        self._validations = Validations()
        examples = self._inputs.source.num_records
        self._due = validation_steps(config.training, examples)
        identity = finetuning_identity(config, options, examples)
        self.course = Course(
            sources={KIND: self._inputs.source},
            plan=OneSource(KIND),
            total_steps=total_steps(config.training, examples),
            loss_weights=defaultdict(lambda: 1.0),
            training=TrainingConfig(
                precision=config.training.precision,
                grad_compress=config.training.grad_compress,
                on_divergence=config.training.on_divergence,
                max_skipped_updates=config.training.max_skipped_updates,
                log_every=config.training.log_every,
                evaluate_every=validation_interval(config.training, examples),
            ),
            identity=identity,
            facts={"identity": identity},
            evaluates=True,
            description=self._inputs.description,
            repeated="validation",
        )

    def build(self, start: Start | None) -> Built[nn.Module]:
        if start is not None:
            self._validations = Validations(start.state["validations"])
        return build_task(self.config, self.checkpoint, start)

    def state(self) -> Mapping[str, Any]:
        return {"validations": self._validations.results}

    def begin(self, step: int, trained: Trained[nn.Module]) -> None:
        if step < self.course.total_steps:  # a run that was cut off may have saved this step and not validated it
            self.evaluate(step, trained)

    def evaluate(self, step: int, trained: Trained[nn.Module]) -> None:
        if step in self._due:
            self._validator(trained).validate(step)

    def end(self, step: int, trained: Trained[nn.Module]) -> None:
        validator, context = self._validator(trained), self._context
        validator.validate(step)
        best = validator.load_best()
        measured = self._tests.measure(trained.model, self._inputs.test)
        split = tested_split(self._options)
        publish_results(self.config, split, measured, best, context.journal, context.saving.folder)

    def _validator(self, trained: Trained[nn.Module]) -> Validator:
        measure = partial(self._tests.measure, sets=self._inputs.validation)
        return Validator(self._context, trained, measure, selection_metric(self.config), self._validations)


@dataclass(frozen=True)
class OneSource:
    """The plan of a run in which every step trains one batch of one source."""

    kind: str

    def kinds_of_step(self, step: int) -> tuple[str, ...]:
        return (self.kind,)

    def batches_before(self, step: int) -> dict[str, int]:
        return {self.kind: step}


def build_task(config: FinetuneConfig, checkpoint: str | None, start: Start | None) -> Built[nn.Module]:
    """The task of a config: from `--checkpoint` or `model.weights`, or to be filled from the checkpoint of a run.

    Raises:
        UserError: the weights cannot be read, or are of another task or size.
    """
    if start is not None:
        task = empty_task(config)
        return Built(task, task)
    weights = named_weights(config, checkpoint, training=True)
    task = initial_task(config, weights)
    if weights is None:
        return Built(task, task, "the encoders' own weights (no --checkpoint)", warning=_without_pretraining(config))
    return Built(task, task, f"{weights.source} ({weights.task}, step {weights.step})")


def _without_pretraining(config: FinetuneConfig) -> str:
    """The warning about a model that nothing has pre-trained as a whole."""
    vision, text = config.model.vision.weights, config.model.text.weights
    random = "the encoders, the fusion encoder and the heads" if vision is text is None else "all but the encoders"
    if (vision is None) != (text is None):
        random = f"all but the {'image' if text is None else 'text'} encoder"
    return (
        f"neither --checkpoint nor model.weights names a pre-trained model, so {random} begin with random weights; "
        "name one unless this is meant"
    )
