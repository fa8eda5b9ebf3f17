"""Which command of cclm each component runs."""

from __future__ import annotations

from torchx.specs import AppDef, macros

from cclm.cli.run_commands import DEFAULT_MODEL, TASKS
from cclm.components.application import build_app
from cclm.components.arguments import (
    Evaluation,
    FineTuning,
    FineTuningTask,
    Output,
    PaperTask,
    Pretraining,
    TaskInTwoParts,
)
from cclm.errors import UserError

_TEMPORARY = f"/tmp/cclm/{macros.app_id}"
"""Where a job saves first if it has a second folder, but no first one. Each job has a folder of its own."""


def pretraining(options: Pretraining) -> AppDef:
    """Pre-training. Raises UserError if the options cannot be used."""
    weights = [f"model.weights={options.checkpoint}"] if options.checkpoint else []
    command = ["pretrain", "--resume", options.resume, options.config, *_settings(options), *weights]
    return build_app([*command, *options.overrides], options)


def paper_task(options: PaperTask) -> AppDef:
    """A task of the paper. Raises UserError if the options cannot be used."""
    published = TASKS[options.task]
    name = published.few_shot if options.fewshot else published.config
    if name is None:
        known = ", ".join(task for task, each in TASKS.items() if each.few_shot)
        raise UserError(f"--fewshot: {options.task} has no few-shot files; those with some: {known}")
    return _finetune(options, options.config or f"configs/{DEFAULT_MODEL}/{name}")


def finetuning(options: FineTuning) -> AppDef:
    """Fine-tuning with any config. Raises UserError if the options cannot be used."""
    return _finetune(options, options.config)


def task_in_two_parts(options: TaskInTwoParts) -> AppDef:
    """Text assignment, then fine-tuning from it, in one job. Raises UserError if the options cannot be used."""
    output = options.output or (_TEMPORARY if options.output_hdfs else f"output/{options.task}")
    command = ["run", "--dist", "1", "--task", options.task, "--output_dir", output]
    command += ["--output_hdfs", options.output_hdfs] if options.output_hdfs else []
    command += ["--seed", str(options.seed)] if options.seed is not None else []
    command += ["--checkpoint", options.checkpoint, *_task_options(options), "--resume", options.resume]
    return build_app([*command, *options.overrides], options)


def evaluation(options: Evaluation) -> AppDef:
    """A test of a model. Raises UserError if the options cannot be used."""
    command = ["evaluate", "--checkpoint", options.checkpoint, *_task_options(options), options.config]
    return build_app([*command, *_settings(options), *options.overrides], options)


def _finetune(options: PaperTask | FineTuning, config: str) -> AppDef:
    command = ["finetune", "--checkpoint", options.checkpoint, *_task_options(options), "--resume", options.resume]
    return build_app([*command, config, *_settings(options), *options.overrides], options)


def _task_options(options: FineTuningTask | Evaluation) -> list[str]:
    few_shot = ["--fewshot", options.fewshot] if options.fewshot else []
    return [*few_shot, "--gmt"] if options.gmt else few_shot


def _settings(options: Output) -> list[str]:
    output = options.output or (_TEMPORARY if options.output_hdfs else None)
    settings = [f"output_dir={output}"] if output else []
    settings += [f"output_hdfs={options.output_hdfs}"] if options.output_hdfs else []
    settings += [f"seed={options.seed}"] if options.seed is not None else []
    return settings
