"""Which command of cclm each component runs."""

from __future__ import annotations

from dataclasses import dataclass

from torchx.specs import AppDef

from cclm.cli.run_commands import DEFAULT_MODEL, TASKS
from cclm.components.application import build_app
from cclm.components.arguments import (
    PUBLISHED_PRETRAINING,
    Evaluation,
    FineTuning,
    FineTuningTask,
    Output,
    PaperTask,
    Pretraining,
    TaskInTwoParts,
)
from cclm.errors import UserError


def pretraining(options: Pretraining) -> AppDef:
    """Pre-training. Raises UserError if the options cannot be used."""
    weights = [f"model.weights={options.checkpoint}"] if options.checkpoint else []
    command = ["pretrain", "--resume", options.resume, options.config, *_settings(options), *weights]
    return build_app([*command, *options.overrides], options, is_published=options.config == PUBLISHED_PRETRAINING)


def paper_task(options: PaperTask) -> AppDef:
    """A task of the paper. Raises UserError if the options cannot be used."""
    published = TASKS[options.task]
    name = published.few_shot if options.fewshot else published.config
    if name is None:
        known = ", ".join(task for task, each in TASKS.items() if each.few_shot)
        raise UserError(f"--fewshot: {options.task} has no few-shot files; those with some: {known}")
    config = options.config or f"configs/{DEFAULT_MODEL}/{name}"
    return _finetune(options, config, is_published=options.config is None)


def finetuning(options: FineTuning) -> AppDef:
    """Fine-tuning with any config. Raises UserError if the options cannot be used."""
    return _finetune(options, options.config)


def task_in_two_parts(options: TaskInTwoParts) -> AppDef:
    """Text assignment, then fine-tuning from it, in one job. Raises UserError if the options cannot be used."""
    places = _places(options)
    first = places.first or f"output/{options.task}"
    command = ["run", "--dist", "1", "--task", options.task, "--output_dir", first]
    command += ["--output_hdfs", places.second] if places.second else []
    command += ["--seed", str(options.seed)] if options.seed is not None else []
    command += ["--checkpoint", options.checkpoint, *_task_options(options), "--resume", options.resume]
    return build_app([*command, *options.overrides], options, is_published=True)


def evaluation(options: Evaluation) -> AppDef:
    """A test of a model. Raises UserError if the options cannot be used."""
    command = ["evaluate", "--checkpoint", options.checkpoint, *_task_options(options), options.config]
    return build_app([*command, *_settings(options), *options.overrides], options)


def _finetune(options: PaperTask | FineTuning, config: str, *, is_published: bool = False) -> AppDef:
    command = ["finetune", "--checkpoint", options.checkpoint, *_task_options(options), "--resume", options.resume]
    command += [config, *_settings(options), *options.overrides]
    return build_app(command, options, is_published=is_published)


def _task_options(options: FineTuningTask | Evaluation) -> list[str]:
    few_shot = ["--fewshot", options.fewshot] if options.fewshot else []
    return [*few_shot, "--gmt"] if options.gmt else few_shot


@dataclass(frozen=True)
class _Places:
    """Where a run saves."""

    first: str | None
    """None: where the config says."""
    second: str | None


def _places(options: Output) -> _Places:
    """A folder that is given alone is the only one: what a config names is a path that containers may not write to."""
    if options.output is None:
        return _Places(options.output_hdfs, None)
    return _Places(options.output, options.output_hdfs)


def _settings(options: Output) -> list[str]:
    places = _places(options)
    settings = [f"output_dir={places.first}"] if places.first else []
    settings += [f"output_hdfs={places.second}"] if places.second else []
    settings += [f"seed={options.seed}"] if options.seed is not None else []
    return settings
