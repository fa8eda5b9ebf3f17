"""The task of a fine-tuning config with its initial weights: from pre-training, or from fine-tuning of the same task.

The file is a published `.th` or a checkpoint folder of ours. Its names and shapes are compared with the model's before
anything is copied, and position tables are resampled to the config's image size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cclm import storage
from cclm.checkpoints.find import WEIGHTS, find_checkpoint, is_checkpoint_folder
from cclm.checkpoints.initial import build_model
from cclm.checkpoints.load import setting_differences
from cclm.checkpoints.manifest import MODEL
from cclm.checkpoints.published import check_names_and_shapes, published_name, read_published_file
from cclm.checkpoints.resize import resample_positions
from cclm.checkpoints.retention import checkpoint_steps
from cclm.config.finetune import (
    AnsweringConfig,
    ClassificationConfig,
    FinetuneConfig,
    ReasoningConfig,
    RetrievalConfig,
    TextAssignmentConfig,
)
from cclm.errors import UserError
from cclm.model.cclm import CCLM
from cclm.tasks.answering import AnsweringTask
from cclm.tasks.classification import ClassificationTask
from cclm.tasks.reasoning import PairTask, TextAssignmentTask
from cclm.tasks.retrieval import RetrievalTask
from cclm.training.identity import PRETRAIN
from cclm.training.run_files import BEST


@dataclass(frozen=True)
class Weights:
    """What a checkpoint holds."""

    source: str
    """For messages."""
    task: str
    """`pretrain`, or the fine-tuning task."""
    step: int
    tensors: dict[str, Tensor]
    published: bool
    """Whether the tensors have the published names; otherwise they have ours."""
    model: Mapping[str, Any] | None = None
    """Settings of the model that was saved; None for a published file."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """Identity of the run that saved it (`cclm.training.identity`); empty for a published file."""


def task_of(config: FinetuneConfig, pretrained: CCLM) -> nn.Module:
    """The task's model around (parts of) a pre-trained one. New heads are drawn from torch's random state."""
    match config:
        case RetrievalConfig():
            return RetrievalTask(pretrained)
        case ClassificationConfig():
            return ClassificationTask(pretrained, config.num_labels)
        case AnsweringConfig():
            return AnsweringTask(pretrained, config.decoder_layers)
        case ReasoningConfig():
            return PairTask(pretrained)
        case TextAssignmentConfig():
            return TextAssignmentTask(pretrained)
    raise TypeError(f"no model for task {config.task}")


def read_weights(path: str, config: FinetuneConfig) -> Weights:
    """Read weights into memory.

    Args:
        path: a published `.th` file, a checkpoint folder of ours, or a run's folder (its best checkpoint, else its
            newest).

    Raises:
        UserError: there is none, or it is torn or unsafe to read.
    """
    if not is_checkpoint_folder(path):
        state = read_published_file(path)
        return Weights(f"weights {path}", _published_task(state, config), 0, state, published=True)
    best = storage.join(path, BEST)
    checkpoint = find_checkpoint(best if checkpoint_steps(best) else path, WEIGHTS)
    tensors = load_file(checkpoint.file(MODEL))
    if checkpoint.copy is not None:  # the tensors map a temporary copy of the file, which is deleted with `checkpoint`
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    made = checkpoint.state["config"]
    identity = checkpoint.state.get("identity", {})
    return Weights(checkpoint.source, made["task"], checkpoint.step, tensors, False, made["model"], identity)


def named_weights(config: FinetuneConfig, path: str | None, *, training: bool) -> Weights | None:
    """What `--checkpoint` or, without it, `model.weights` names; None if neither does.

    Args:
        path: what `--checkpoint` names.
        training: whether the weights are to be trained, not evaluated as they are.

    Raises:
        UserError: they cannot be read, or are of another task.
    """
    path = config.model.weights if path is None else path
    if path is None:
        return None
    weights = read_weights(path, config)
    check_weights(weights, config, training=training)
    return weights


def check_weights(weights: Weights, config: FinetuneConfig, *, training: bool) -> None:
    """Check whether the task can start from these weights, or be evaluated with them.

    Raises:
        UserError: they are of another task, or, for evaluation, were never trained on it.
    """
    if weights.task == config.task or (training and weights.task == PRETRAIN):
        return
    if weights.task == PRETRAIN and config.task == "retrieval":  # pre-training trains all that retrieval needs
        return
    if training and (weights.task, config.task) == ("text_assignment", "reasoning"):
        return
    if weights.task == PRETRAIN:
        raise UserError(
            f"{weights.source} was pre-trained and never fine-tuned for {config.task}, so its answers would be drawn "
            "at random; fine-tune it first with `cclm finetune`"
        )
    ways = "a pre-trained one, or " if training else ""
    raise UserError(
        f"{weights.source} was fine-tuned for {weights.task}, but the config's task is {config.task}; give {ways}"
        f"one fine-tuned for {config.task}"
    )


def initial_task(config: FinetuneConfig, weights: Weights | None) -> nn.Module:
    """The task on the CPU. New heads are drawn from the config's seed.

    Args:
        weights: of the whole task or model; None: the encoders' own weights, as the config names them.

    Raises:
        UserError: the weights are of a model of other sizes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if weights is None:
            return task_of(config, build_model(config.model, seed=config.seed))
        if weights.task == PRETRAIN:
            _copy(weights, _outline(lambda: CCLM(config.model)), config)
            model = CCLM(config.model)
            _copy(weights, model, config)
            return task_of(config, model)
        kept = "encoders." if weights.task != config.task else ""  # of text assignment
        _copy(weights, _outline(lambda: empty_task(config)), config, kept)
        task = empty_task(config)
        _copy(weights, task, config, kept)
        return task


def empty_task(config: FinetuneConfig) -> nn.Module:
    """The task on the CPU, to be filled from a checkpoint."""
    return task_of(config, CCLM(config.model))


def _outline(build: Callable[[], nn.Module]) -> nn.Module:
    """The module on the meta device: names and shapes, to be checked before seconds are spent on building it."""
    with torch.device("meta"):
        return build()


def _copy(weights: Weights, module: nn.Module, config: FinetuneConfig, kept: str = "") -> None:
    """Copy weights into a module.

    Args:
        kept: only parameters whose names start with this are copied; each of them must be there.

    Raises:
        UserError: a name is missing or unknown, or a shape differs.
    """
    layers, finetuned = config.model.text.num_text_layers, weights.task != PRETRAIN

    def name_of(name: str) -> str:
        return published_name(name, num_text_layers=layers, finetuned=finetuned) if weights.published else name

    # A shared parameter has two names. Files of the published code hold both; ours hold the first one.
    parameters = dict(module.named_parameters(remove_duplicate=not weights.published))
    wanted = {name_of(name): parameter for name, parameter in parameters.items() if name.startswith(kept)}
    given: Mapping[str, Tensor] = {
        name: tensor for name, tensor in weights.tensors.items() if not _REBUILT.search(name)
    }
    if kept:
        given = {name: tensor for name, tensor in given.items() if name in wanted}
    given = resample_positions(given, wanted)
    try:
        check_names_and_shapes(wanted, given, weights.source)
    except UserError as error:
        raise UserError(f"{error}{setting_differences(weights.model or {}, config.model)}") from None
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(given[name])


_REBUILT = re.compile(r"(relative_position_index|attn_mask|position_ids|predictions\.decoder\.(weight|bias))$")
"""Buffers that published files hold beside the parameters."""


def _published_task(state: Mapping[str, Tensor], config: FinetuneConfig) -> str:
    """The task of a published state dict. Each of the published programs has names that others lack."""

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in state)

    if has("text_decoder."):
        return "answering"
    if has("ta_head."):
        return "text_assignment"
    if has("cls_head."):
        doubled = f"text_encoder.encoder.layer.{config.model.text.num_layers}."
        return "reasoning" if has(doubled) else "classification"
    return PRETRAIN if has("text_encoder.bert.") else "retrieval"
