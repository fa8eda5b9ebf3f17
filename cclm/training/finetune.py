"""Fine-tuning and evaluation of the downstream tasks: where their configs become objects, in reading order.

Whatever can be wrong is looked at first, before a model is built.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cclm import distributed
from cclm.config.finetune import FinetuneConfig, TextAssignmentConfig
from cclm.config.pretrain import TrainingConfig
from cclm.data.annotations.missing import Policy
from cclm.data.annotations.types import FewShot
from cclm.data.batches.finetuning_source import FinetuneSource, open_finetune_source
from cclm.data.examples.finetuning_examples import Preprocessor
from cclm.data.examples.tokenizer import Tokenizer
from cclm.data.stored.order import slots_of_rank
from cclm.errors import UserError
from cclm.events import Journal
from cclm.metrics.measured import Measured, mean_metric
from cclm.metrics.report import Report
from cclm.metrics.results import PREDICTIONS, RESULTS, as_json, table, write_predictions, write_results
from cclm.metrics.sentences import Sentences
from cclm.training import environment
from cclm.training.changes import changes, refuse_other_run, settings_of
from cclm.training.initial_task import Weights, check_weights, empty_task, initial_task, read_weights
from cclm.training.loop import Run, fit
from cclm.training.optimizer import build_optimizer
from cclm.training.preflight import load_checked_tokenizer
from cclm.training.resume import KEPT_FILES
from cclm.training.run import finish, versions
from cclm.training.saving import Saving, Start
from cclm.training.schedule import warmup_steps
from cclm.training.task_tests import Sets, TaskTests, dropped, read_sets, read_training_set, text_rules
from cclm.training.validation import (
    Validations,
    selection_metric,
    total_steps,
    validation_interval,
    validation_steps,
)

KIND = "examples"
"""Name of the one source."""
FEW_SHOT = "--fewshot"
"""What an identity calls it."""
PROTOCOL = (
    "few-shot, as published: trained on {shots} of {language}, validated on the test set of that language; the figure "
    "is that of the best epoch on it"
)


@dataclass(frozen=True)
class Options:
    """What the command line adds to a config."""

    checkpoint: str | None = None
    """Weights to start from, or to evaluate."""
    shots: FewShot | None = None
    translated: bool = False
    """Test on the machine-translated files (translate-test)."""
    missing: Policy | None = None
    """What to do about images that are not there; None: what the config's `data.missing_images` says."""
    resume: str = "auto"
    """As in `Saving.find_start`."""


@dataclass(frozen=True)
class OneSource:
    """The plan of a run in which every step trains one batch of one source."""

    kind: str = KIND

    def kinds_of_step(self, step: int) -> tuple[str, ...]:
        return (self.kind,)

    def batches_before(self, step: int) -> dict[str, int]:
        return {self.kind: step}


def finetune(
    config: FinetuneConfig, options: Options = Options(), *, stop: environment.StopSignal | None = None
) -> int:
    """Fine-tune as `config` says, then test the model that did best in validation; every process calls this.

    Returns:
        as `run.pretrain`: 0, or 143, 130 or 202 when a signal stopped the run after a checkpoint.

    Raises:
        UserError: data, weights or settings do not serve; before training, unless training itself diverges.
    """
    # 1. What needs nothing but the config, the files and the number of processes.
    device = distributed.initialize()
    environment.set_threads(device)
    saving = Saving(config, journal := Journal([Sentences(print)]))
    inputs = read_inputs(config, options)
    tests = TaskTests(config, inputs.tokenizer, device)
    examples = inputs.source.num_records
    total = total_steps(config.training, examples)
    identity = identity_of(config, options, examples)

    # 2. Where to start, and the task.
    start = saving.find_start(options.resume)
    begin = 0 if start is None else start.step
    refuse_other_run(start, identity)
    weights = weights_for(config, options, training=True) if start is None else None
    task = (initial_task(config, weights) if start is None else empty_task(config)).to(device)
    optimizer = build_optimizer(task, config.optimizer)
    saving.restore(start, task, optimizer)

    # 3. What happens between steps.
    report = Report(saving.folder, active=distributed.rank() == 0, total=total, start=begin)
    journal.sinks = [Sentences(report.say)]
    saving.publish(*KEPT_FILES)
    facts = {**settings_of(config, start, options.checkpoint), "identity": identity, "versions": versions()}
    validations = Validations(start.state["validations"] if start is not None else ())
    validator = Validator(config, tests, inputs.validation, task, saving, facts, validations, report)
    due = validation_steps(config.training, examples)

    # 4. Train.
    report.forget_after(begin, again="validation")  # a checkpoint is made before its validation
    head = headline(config, task, device, inputs.said, weights, begin, total)
    report.say("\n".join([head, *changes(start, config, options.checkpoint)]))
    run = Run(
        task=distributed.wrap(task, device),
        loss_weights=defaultdict(lambda: 1.0),
        optimizer=optimizer,
        plan=OneSource(),
        sources={KIND: inputs.source},
        training=loop_settings(config, examples),
        checkpoints=config.checkpoints,
        clip_grad_norm=config.optimizer.clip_grad_norm,
        total_steps=total,
        warmup_steps=warmup_steps(config.schedule, total),
        seed=config.seed,
        device=device,
        report=report,
        save=lambda step: saving.save(step, task, optimizer, {**facts, "validations": validations.said}),
        hear=saving.poll,
        evaluate=lambda step: validator.validate(step) if step in due else None,
        stop=stop or environment.StopSignal(),
    )

    def finally_test(step: int) -> None:
        validator.validate(step)
        best = validator.load_best()
        publish(config, options, tests, task, inputs.test, report, saving.folder, best)

    with closing(report), saving:
        if begin in due and begin < total:  # which a run that was cut off left undone
            validator.validate(begin)
        code = finish(run, fit(run, begin), finally_test)
    distributed.shutdown()
    return code


@dataclass(frozen=True)
class Inputs:
    """What a run reads."""

    tokenizer: Tokenizer
    source: FinetuneSource
    validation: Sets
    test: Sets
    said: str
    """In words, with what was left out."""


def read_inputs(config: FinetuneConfig, options: Options) -> Inputs:
    """Read and check everything.

    Raises:
        UserError: names the file and line, or the setting, that does not serve.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    slots_of_rank("training.batch_size", config.training.batch_size, rank, world_size)
    tokenizer = load_checked_tokenizer(config)
    missing = options.missing or config.data.missing_images
    training_set = read_training_set(config, options.shots, missing)
    validation = read_sets(config, "validation", options.shots, missing)
    test = read_test_sets(config, options)
    rules = text_rules(config, training=True)
    preprocessor = Preprocessor(config.model.vision.image_size, config.data.augment, rules, tokenizer)
    source = open_finetune_source(
        training_set,
        preprocessor,
        config.model.text.max_positions,
        config.training.batch_size,
        seed=config.seed,
        num_workers=config.training.num_workers,
        rank=rank,
        world_size=world_size,
    )
    said = [f"{len(training_set):,} of {', '.join(training_set.files)}"]
    for split, sets in (("training", {"all": training_set}), ("validation", validation), ("test", test)):
        if left_out := dropped(sets):
            said.append(f"{split} sets, {left_out}")
    return Inputs(tokenizer, source, validation, test, "\n".join(said))


class Validator:
    """Validates the task, and keeps the best model. Every process calls everything.

    Args:
        facts: kept beside the best model.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        tests: TaskTests,
        sets: Sets,
        task: nn.Module,
        saving: Saving,
        facts: Mapping[str, Any],
        validations: Validations,
        report: Report,
    ) -> None:
        self._tests, self._sets, self._task = tests, sets, task
        self._saving, self._facts, self._report = saving, facts, report
        self._validations, self._metric = validations, selection_metric(config)

    def validate(self, step: int) -> None:
        """Measure the model after so many steps, unless that was done."""
        if self._validations.has(step):
            return
        measured = self._tests.measure(self._task, self._sets)
        score = mean_metric(measured, self._metric)
        is_better = self._validations.is_better(score)
        said = self._validations.add(step, self._metric, measured)
        if is_better:
            self._saving.save_best(step, self._task, {**self._facts, "validation": said}, score)
        best = ", the best so far" if is_better else ""
        self._report.say(f"validation after step {step}, percent{best}\n{table(measured)}")
        self._report.line({"step": step, "validation": as_json(measured)})

    def load_best(self) -> Start:
        """Set the task to the best model.

        Raises:
            UserError: it could not be written.
        """
        best = self._saving.best()
        if best is None:
            raise UserError(f"no best checkpoint is in {self._saving.folder}: see above why it could not be written")
        self._saving.restore(best, self._task)
        score = best.state["validation"]["score"]
        self._report.say(f"selected step {best.step}: {self._metric} {score:.2f} in validation")
        return best


def evaluate(config: FinetuneConfig, options: Options) -> None:
    """Test a model: the test sets of all languages, or, for a few-shot config, those of its language.

    Raises:
        UserError: data or weights do not serve.
    """
    device = distributed.initialize()
    environment.set_threads(device)
    if isinstance(config, TextAssignmentConfig):
        raise UserError("task text_assignment is pre-training for reasoning, and has no test; evaluate that task")
    saving = Saving(config, Journal([Sentences(print)]))
    tokenizer = load_checked_tokenizer(config)
    test_sets = read_test_sets(config, options)
    tests = TaskTests(config, tokenizer, device)
    weights = weights_for(config, options, training=False)
    if weights is None:
        raise UserError("say which model to evaluate: --checkpoint PATH, a run's folder or a .th file")
    task = initial_task(config, weights).to(device)
    report = Report(saving.folder, active=distributed.rank() == 0)
    with closing(report), saving:
        if left_out := dropped(test_sets):
            report.say(f"test sets, {left_out}")
        evaluated = Start(weights.step, {"validation": None, "identity": weights.identity}, weights.source, None)
        publish(config, options, tests, task, test_sets, report, saving.folder, evaluated)
        saving.publish(RESULTS, f"{PREDICTIONS}/*")
    distributed.shutdown()


def read_test_sets(config: FinetuneConfig, options: Options) -> Sets:
    """What is tested in the end: translated files if asked for; a few-shot run's validation set, as published.

    Raises:
        UserError: there is no such file.
    """
    missing = options.missing or config.data.missing_images
    if options.translated:
        if not config.data.translated_test_files:
            raise UserError("--gmt: the config has no data.translated_test_files; name the translated tests there")
        return read_sets(config, "translated_test", options.shots, missing)
    split = "test" if config.data.test_files else "validation"
    return read_sets(config, split, options.shots, missing)


def publish(
    config: FinetuneConfig,
    options: Options,
    tests: TaskTests,
    task: nn.Module,
    sets: Sets,
    report: Report,
    folder: Path,
    model: Start,
) -> dict[str, Measured]:
    """Measure the test sets; print the table, write results and predictions."""
    measured = tests.measure(task, sets)
    split = "translated_test" if options.translated else "test"
    title = {"test": "test", "translated_test": "translate-test (English translations of the tests)"}[split]
    protocol = protocol_of(model)
    report.say(f"{title}, step {model.step}, percent{f' ({protocol})' if protocol else ''}\n{table(measured)}")
    report.line({"step": model.step, split: as_json(measured)})
    if distributed.rank() == 0:
        values = {"task": config.task, "step": model.step, "checkpoint": model.source, "protocol": protocol}
        values["validation"] = model.state["validation"]
        write_results(folder, values | {split: as_json(measured)})
        write_predictions(folder, split, measured)
    return measured


def protocol_of(model: Start) -> str | None:
    """How a few-shot model was chosen; None for others, and for weights that do not tell."""
    few = model.state.get("identity", {}).get(FEW_SHOT)
    if few is None:
        return None
    language, shots = few.split(",")
    return PROTOCOL.format(shots="the few-shot file" if shots == "None" else f"{shots} shots", language=language)


def weights_for(config: FinetuneConfig, options: Options, *, training: bool) -> Weights | None:
    """What `--checkpoint`, or else `model.weights`, names; None if neither does.

    Raises:
        UserError: it cannot be read, or is of another task.
    """
    path = options.checkpoint if options.checkpoint is not None else config.model.weights
    if path is None:
        return None
    weights = read_weights(path, config)
    check_weights(weights, config, training=training)
    return weights


def identity_values(config: FinetuneConfig) -> dict[str, Any]:
    """What decides the sizes of the model, and the seed, by the names that users know."""
    model = config.model.model_dump(mode="json")
    free = {"weights", "tokenizer", "dropout", "attention_dropout", "drop_path", "initializer_range"}
    sizes = {f"model.{part}.{name}": value for part in ("vision", "text") for name, value in model[part].items()
             if name not in free}  # fmt: skip
    return {"task": config.task, "seed": config.seed, **sizes}


def identity_of(config: FinetuneConfig, options: Options, examples: int) -> dict[str, Any]:
    """The same, and what decides the order of the data."""
    shots = options.shots and f"{options.shots.language},{options.shots.shots}"
    own = {"number of training examples": examples, FEW_SHOT: shots}
    return identity_values(config) | {"training.batch_size": config.training.batch_size} | own


def loop_settings(config: FinetuneConfig, examples: int) -> TrainingConfig:
    """What the loop needs to know; it saves before each validation."""
    training = config.training
    return TrainingConfig(
        precision=training.precision,
        log_every=training.log_every,
        evaluate_every=validation_interval(training, examples),
    )


def headline(
    config: FinetuneConfig,
    task: nn.Module,
    device: torch.device,
    data: str,
    weights: Weights | None,
    start: int,
    total: int,
) -> str:
    """What is about to run, in a few lines."""
    millions = sum(parameter.numel() for parameter in task.parameters()) / 1e6
    processes = distributed.world_size()
    where = f"{processes} process{'es' if processes > 1 else ''} on {device.type}"
    if start:
        begin = f"resuming after step {start}"
    elif weights is None:
        begin = "starting from the encoders' own weights (no --checkpoint)"
    else:
        begin = f"starting from {weights.source} ({weights.task}, step {weights.step})"
    return (
        f"{config.task}: {begin}: {total} steps, {millions:.1f} M parameters, {where}\n"
        f"training examples: {data}\noutput: {config.output_dir}"
    )
