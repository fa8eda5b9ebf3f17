"""The published launcher's flags become commands of `cclm`: one for most tasks, two for `nlvr_domain`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cclm.errors import UserError


@dataclass(frozen=True)
class PublishedTask:
    """A task of the published launcher."""

    config: str
    """Name of its config file: in the folder that `--model` names, or in `configs/` for pre-training."""
    few_shot: str | None = None
    """Name of its config file with `--fewshot`; None if there is none."""
    pretraining: bool = False


TASKS: dict[str, PublishedTask] = {
    "pretrain_cclm_3m": PublishedTask("Pretrain_3m.yaml", pretraining=True),
    "pretrain_cclm_4m": PublishedTask("Pretrain_4m.yaml", pretraining=True),
    "itr_multi30k": PublishedTask("Retrieval_multi30k_all_ft.yaml"),
    "itr_coco": PublishedTask("Retrieval_coco_all_ft.yaml"),
    "xvnli": PublishedTask("XVNLI.yaml", "XVNLI_fewshot.yaml"),
    "gqa": PublishedTask("GQA.yaml", "GQA_fewshot.yaml"),
    "nlvr": PublishedTask("NLVR.yaml", "NLVR_fewshot.yaml"),
    "nlvr_domain": PublishedTask("NLVR.yaml", "NLVR_fewshot.yaml"),
    "xflickrco": PublishedTask("xFlickrCO.yaml", "xFlickrCO_fewshot.yaml"),
    "wit": PublishedTask("WIT.yaml"),
}
DOMAIN_CONFIG = "NLVR_multilingual_pretrain_O1.yaml"
"""Config file of the first half of `nlvr_domain`, text assignment."""
DOMAIN_PREFIX = "domain."
"""Settings that begin with this are for the first half of `nlvr_domain`."""
FINE_TUNED = "nlvr_ft"
"""Where `nlvr_domain` fine-tunes, under `--output_dir`."""
DEFAULT_MODEL = "cclm-base-ft"


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What the command line says. As in the published launcher, an empty string or -1 leaves the config's own value."""

    task: str
    output_dir: str
    config: str = ""
    model: str = DEFAULT_MODEL
    output_hdfs: str = ""
    checkpoint: str = ""
    load_ckpt_from: str = ""
    bs: int = -1
    epoch: int = -1
    seed: int | None = None
    lr: float = 0.0
    fewshot: str = ""
    gmt: bool = False
    evaluate: bool = False
    missing_images: str = ""
    resume: str = ""
    overrides: Sequence[str] = ()


def commands_of(flags: Flags) -> list[list[str]]:
    """The commands of `cclm` that do the task, in order. Each one needs the result of the one before.

    Raises:
        UserError: flags that contradict each other, or a config that is not there.
    """
    task = TASKS[flags.task]
    _check(flags, task)
    if task.pretraining:
        return [_pretrain(flags, task)]
    if flags.task == "nlvr_domain":
        return _nlvr_domain(flags)
    return [_finetune(flags, _config(flags, task), flags.output_dir, flags.checkpoint)]


def find_config(name: str, given: str) -> str:
    """The path of a config file: under `configs/` of the working directory, or else beside this package.

    Args:
        name: of the file, under `configs/`.
        given: the flag that led to it, for the error.

    Raises:
        UserError: there is no such file.
    """
    from cclm.config.files import shipped_configs

    if Path("configs", name).is_file():
        return str(Path("configs", name))
    shipped = shipped_configs() / name
    if shipped.is_file():
        return os.path.relpath(shipped) if shipped.is_relative_to(Path.cwd()) else str(shipped)
    raise UserError(f"{given}: there is no config file configs/{name}; name one with --config")


def _check(flags: Flags, task: PublishedTask) -> None:
    """Raise UserError for flags that contradict each other, or that the task does not have."""
    domain = flags.task == "nlvr_domain"
    for name in ("bs", "epoch", "lr"):
        value = getattr(flags, name)
        if value <= 0 and value not in (-1, getattr(Flags, name)):  # -1 is the config's own value, as published
            raise UserError(f"--{name} is {value:g}; give a number above 0, or leave it out for the config's")
    if flags.load_ckpt_from and not domain:
        raise UserError(
            f"--load_ckpt_from is for task nlvr_domain; for {flags.task} name the weights with --checkpoint"
        )
    if domain and flags.config:
        raise UserError(
            "--config: nlvr_domain has two configs; choose them with --model, or run cclm finetune for each"
        )
    if task.pretraining:
        for name in ("fewshot", "gmt", "evaluate", "missing_images"):
            if getattr(flags, name):
                raise UserError(f"--{name.replace('_images', '-images')} is for fine-tuning, not for {flags.task}")
        if flags.bs > 0:
            raise UserError(
                "--bs is for fine-tuning; in pre-training each source has its own, as data.images.batch_size=512"
            )
    for override in flags.overrides:
        if override.startswith(DOMAIN_PREFIX) and not domain:
            raise UserError(f"{override}: {DOMAIN_PREFIX}* are settings of nlvr_domain's first half; leave that out")


def _pretrain(flags: Flags, task: PublishedTask) -> list[str]:
    config = flags.config or find_config(task.config, f"--task {flags.task}")
    weights = [f"model.weights={flags.checkpoint}"] if flags.checkpoint else []
    return ["pretrain", config, *_resume(flags), *_settings(flags, flags.output_dir), *weights, *flags.overrides]


def _nlvr_domain(flags: Flags) -> list[list[str]]:
    """Text assignment in `--output_dir`, then fine-tuning in a folder below it.

    Text assignment is left out if `--load_ckpt_from` names its result, or if there is no training.
    """
    first = [override for override in flags.overrides if override.startswith(DOMAIN_PREFIX)]
    tuned = _fine_tuned_folder(flags.output_dir)
    second = replace(
        flags,
        overrides=[override for override in flags.overrides if override not in first],
        output_hdfs=_fine_tuned_folder(flags.output_hdfs) if flags.output_hdfs else "",
    )
    config = _config(flags, TASKS["nlvr_domain"])
    if flags.evaluate:
        return [_finetune(second, config, tuned, flags.checkpoint or tuned)]
    if flags.load_ckpt_from:
        return [_finetune(second, config, tuned, flags.load_ckpt_from)]
    domain = replace(
        flags, overrides=[override.removeprefix(DOMAIN_PREFIX) for override in first], bs=-1, epoch=-1, lr=0.0,
        fewshot="", gmt=False, missing_images="",
    )  # fmt: skip
    domain_config = find_config(f"{flags.model}/{DOMAIN_CONFIG}", f"--model {flags.model}")
    # On several machines, and on one that has replaced another, a local folder may lack the result of the first half.
    result = flags.output_hdfs or flags.output_dir
    return [
        _finetune(domain, domain_config, flags.output_dir, flags.checkpoint),
        _finetune(second, config, tuned, result),
    ]


def _fine_tuned_folder(folder: str) -> str:
    return f"{folder.rstrip('/')}/{FINE_TUNED}"


def _finetune(flags: Flags, config: str, output_dir: str, checkpoint: str) -> list[str]:
    options: list[str] = []
    options += ["--checkpoint", checkpoint] if checkpoint else []
    options += ["--fewshot", flags.fewshot] if flags.fewshot else []
    options += ["--missing-images", flags.missing_images] if flags.missing_images else []
    options += ["--gmt"] if flags.gmt else []
    options += ["--evaluate"] if flags.evaluate else []
    settings = _settings(flags, output_dir)
    settings += [f"training.batch_size={flags.bs}"] if flags.bs > 0 else []
    return ["finetune", config, *options, *_resume(flags), *settings, *flags.overrides]


def _config(flags: Flags, task: PublishedTask) -> str:
    if flags.config:
        return flags.config
    name = task.few_shot if flags.fewshot else task.config
    if name is None:
        known = ", ".join(other for other, each in TASKS.items() if each.few_shot)
        raise UserError(f"--fewshot: {flags.task} has no few-shot files; those with some: {known}")
    return find_config(f"{flags.model}/{name}", f"--model {flags.model}")


def _settings(flags: Flags, output_dir: str) -> list[str]:
    settings = [f"output_dir={output_dir}"]
    settings += [f"output_hdfs={flags.output_hdfs}"] if flags.output_hdfs else []
    settings += [f"seed={flags.seed}"] if flags.seed is not None else []
    settings += [f"training.epochs={flags.epoch}", "training.max_steps=null"] if flags.epoch > 0 else []
    settings += [f"optimizer.lr={flags.lr}"] if flags.lr > 0 else []
    return settings


def _resume(flags: Flags) -> list[str]:
    return ["--resume", flags.resume] if flags.resume else []
