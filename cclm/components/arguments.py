"""The arguments of components: what each is for, its default, and how its text is read. Each is declared once.

A component takes one object with all of its arguments. `cclm.components.declare` makes the function of it that TorchX
wants. TorchX gives texts (of the command line and of `.torchxconfig`), which `parse` of an argument reads; Python gives
values, which are taken as they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torchx.util.types import to_dict, to_list

from cclm import __version__
from cclm.components.nodes import Nodes
from cclm.errors import UserError

IMAGE = "CCLM_IMAGE"
"""Environment variable with the container image of jobs that name none."""
PUBLISHED_PRETRAINING = "configs/Pretrain_4m.yaml"
"""The config of pre-training where none is named."""
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")
_MAX_PORT = 65535


@dataclass(frozen=True)
class Help:
    """What TorchX is told about an argument."""

    text: str
    parse: Callable[[str, str], Any]
    """Turns name and text into the value; raises UserError if it cannot."""
    default: str | int | None
    """As the command line would give it; None if there is none."""
    is_required: bool


def _text(name: str, text: str) -> str:
    return text


def _number(least: int, most: int | None = None) -> Callable[[str, str], int]:
    limits = f"from {least}" if most is None else f"from {least} to {most}"

    def parse(name: str, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise UserError(f"--{name} {text}: give a whole number {limits}") from None
        if number < least or (most is not None and number > most):
            raise UserError(f"--{name} {text}: give a whole number {limits}")
        return number

    return parse


def _flag(name: str, text: str) -> bool:
    """TorchX itself takes every text but `true` for False."""
    if text.lower() not in (*_TRUE, *_FALSE):
        raise UserError(f"--{name} {text}: give True or False")
    return text.lower() in _TRUE


def _variables(name: str, text: str) -> dict[str, str]:
    try:
        variables: dict[str, str] = to_dict(text)
    except ValueError:
        raise UserError(f"--{name} {text}: give variables as NAME=VALUE,OTHER=VALUE") from None
    return variables


def _list(name: str, text: str) -> list[str]:
    items: list[str] = to_list(text)
    return items


def _argument(
    text: str,
    *,
    default: str | int | None = None,
    parse: Callable[[str, str], Any] = _text,
    factory: Callable[[], Any] | None = None,
    is_required: bool = False,
) -> Any:
    """A field of a dataclass that is an argument of components.

    Args:
        text: its help.
        default: as the command line would give it.
        parse: turns name and text into the value.
        factory: makes the value of an argument that was not given, if it is not None.
    """
    metadata = {"help": Help(text, parse, default, is_required)}
    if is_required:
        return field(metadata=metadata)
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    if isinstance(default, str):
        return field(default_factory=lambda: parse("", default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _default_image() -> str:
    return os.environ.get(IMAGE) or f"cclm:{__version__}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Where a command runs: nodes, what each of them has, and what the processes find there."""

    j: Nodes = _argument(
        "[MIN:]NODES[xPROCESSES]: nodes, and processes on each (default: one on each GPU); as 2x8, or 1:2x8 for a job "
        "that goes on while nodes come and leave",
        default="1",
        parse=lambda name, text: Nodes.parse(text),
    )
    h: str | None = _argument("the kind of node, by its name as a named resource, instead of cpu, gpu and memMB")
    cpu: int | None = _argument(
        "CPU cores of a node; local schedulers use all there are (2; Kubernetes: 8 for each process of a published "
        "config)",
        parse=_number(1),
    )
    gpu: int | None = _argument(
        "GPUs of a node (none; Kubernetes: one for each process of a published config)", parse=_number(0)
    )
    memMB: int | None = _argument(
        "memory of a node, in MB (4096; Kubernetes: 48000 for each process of a published config)", parse=_number(1)
    )
    image: str = _argument(
        f"container image; local_cwd runs in this folder instead (${IMAGE}, or else cclm:{__version__})",
        factory=_default_image,
    )
    env: Mapping[str, str] = _argument("environment variables, as A=1,B=2", parse=_variables, factory=dict)
    mounts: Sequence[str] = _argument(
        "mounts, as type=bind,src=/host,dst=/job[,readonly] or type=volume,src=CLAIM,dst=/job",
        parse=_list,
        factory=list,
    )
    name: str = _argument("name of the job")
    metrics_port: int | None = _argument(
        "port of each node at which metrics for Prometheus are served (CCLM_METRICS_PORT, or else not at all)",
        parse=_number(0, _MAX_PORT),
    )
    preflight: bool = _argument(
        "False: start without a check of GPUs, shared memory, output, data and network", default="True", parse=_flag
    )
    max_restarts: int = _argument(
        "how often each node starts its processes again before it asks the scheduler", default=3, parse=_number(0)
    )
    rdzv_port: int = _argument(
        "port at which several nodes meet, where the scheduler names none", default=29500, parse=_number(1, _MAX_PORT)
    )


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where a run leaves checkpoints and results, and its seed."""

    output: str | None = _argument(
        "folder for checkpoints and results, a path or a URL as s3://bucket/run (output_hdfs, or else the config's "
        "output_dir)"
    )
    output_hdfs: str | None = _argument(
        "a folder that outlives the node: hdfs://, s3://, gs:// or a path; beside output, or the only one"
    )
    seed: int | None = _argument("random seed (the config's)", parse=_number(0))


@dataclass(frozen=True, kw_only=True)
class Training(Output):
    """What trains."""

    resume: str = _argument(
        "auto goes on from the newest whole checkpoint in output and output_hdfs; never starts anew; or a checkpoint "
        "to start from",
        default="auto",
    )


@dataclass(frozen=True, kw_only=True)
class FineTuningTask(Training):
    """What every task of fine-tuning takes."""

    checkpoint: str = _argument(
        "weights to start from: a published .th file, a checkpoint, or a run's folder; a path or a URL",
        is_required=True,
    )
    fewshot: str | None = _argument("train on few examples of one language: LANG or LANG,SHOTS, as ar,48")
    gmt: bool = _argument("True: test on English machine translations of the tests", default="False", parse=_flag)


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """Settings to change."""

    overrides: Sequence[str] = ()
    """As `key=value`. They come last on the command line."""
    task: str = ""
    """The component's name."""


@dataclass(frozen=True, kw_only=True)
class Pretraining(Training, Job, Overrides):
    """Arguments of `cclm.pretrain`."""

    config: str = _argument("the run's YAML file, as the nodes see it", default=PUBLISHED_PRETRAINING)
    checkpoint: str | None = _argument("weights to start from (model.weights of the config)")


@dataclass(frozen=True, kw_only=True)
class PaperTask(FineTuningTask, Job, Overrides):
    """Arguments of a task of the paper."""

    config: str | None = _argument("the run's YAML file, as the nodes see it (the published one of the task)")


@dataclass(frozen=True, kw_only=True)
class TaskInTwoParts(FineTuningTask, Job, Overrides):
    """Arguments of `cclm.nlvr_domain`, which has two configs."""


@dataclass(frozen=True, kw_only=True)
class FineTuning(FineTuningTask, Job, Overrides):
    """Arguments of `cclm.finetune`."""

    config: str = _argument("the run's YAML file, as the nodes see it", is_required=True)


@dataclass(frozen=True, kw_only=True)
class Evaluation(Output, Job, Overrides):
    """Arguments of `cclm.evaluate`."""

    config: str = _argument("the run's YAML file, as the nodes see it", is_required=True)
    checkpoint: str = _argument(
        "the model: a run's folder, a checkpoint, or a published .th file; a path or a URL", is_required=True
    )
    fewshot: str | None = _argument("of a few-shot config: LANG or LANG,SHOTS, as ar,48")
    gmt: bool = _argument("True: test on English machine translations of the tests", default="False", parse=_flag)
