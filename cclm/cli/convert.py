"""`cclm convert`: our checkpoints in the published layout."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cclm.cli.parser import Subparsers
from cclm.config.paths import expand_home

if TYPE_CHECKING:
    from torch import nn

    from cclm.checkpoints.find import Checkpoint
    from cclm.config.finetune import FinetuneConfig
    from cclm.config.pretrain import PretrainConfig

_DESCRIPTION = """\
Write a checkpoint of ours, pre-trained or fine-tuned for any task, in the published layout: one file
{"model": state dict, "config": settings} with the published parameter names, readable by the published code and by
anything that reads its .th files. The other way round nothing needs converting: give a published file as
model.weights=FILE.th in pre-training, and as --checkpoint FILE.th in fine-tuning."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand and its options."""
    parser = subparsers.add_parser(
        "convert",
        help="write a checkpoint in the published layout (.th)",
        description=_DESCRIPTION,
        epilog="examples:\n  cclm convert output/demo demo.th\n  cclm convert output/demo/step-00000900 demo.th\n"
        "  cclm convert output/xvnli/best xvnli.th",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint", type=expand_home, help="checkpoint folder, or a run's folder (its newest checkpoint)"
    )
    parser.add_argument("out", type=expand_home, metavar="OUT.th", help="file to write; it must not exist")
    parser.set_defaults(func=convert)


def convert(args: argparse.Namespace) -> None:
    """Read a checkpoint, rename its parameters, and write them.

    Raises:
        UserError: there is no whole checkpoint, or OUT exists already or cannot be written.
    """
    from pathlib import Path

    from cclm.checkpoints.find import WEIGHTS, find_checkpoint, is_checkpoint_folder
    from cclm.checkpoints.published import to_published, write_published_file
    from cclm.errors import UserError
    from cclm.preflight.result_folders import check_writable

    out = Path(args.out)
    if out.exists():
        raise UserError(f"{out} exists already; choose another name or remove it")
    if not out.parent.exists():
        raise UserError(f"the folder {out.parent} for the output does not exist; create it")
    check_writable(out.parent, "output folder")
    if not is_checkpoint_folder(args.checkpoint):
        raise UserError(f"{args.checkpoint} is not a checkpoint folder of cclm")
    checkpoint = find_checkpoint(args.checkpoint, WEIGHTS)
    config = _config_of(checkpoint)
    model = _model_of(checkpoint, config)
    state = to_published(model, num_text_layers=config.model.text.num_text_layers, finetuned=config.task != "pretrain")
    try:
        write_published_file(out, state, config.model_dump(mode="json"))
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError on a full disk
        reason = str(error).splitlines()[0]
        raise UserError(f"{out} cannot be written ({reason}); free some space or choose another place") from None
    print(f"wrote {out}: {len(state)} tensors of step {checkpoint.step}")


def _model_of(checkpoint: Checkpoint, config: PretrainConfig | FinetuneConfig) -> nn.Module:
    """The model, or the task around it, with the weights of its checkpoint."""
    from cclm.checkpoints.initial import restore_model
    from cclm.checkpoints.load import load_model
    from cclm.config.pretrain import PretrainConfig
    from cclm.training.initial_task import empty_task

    if isinstance(config, PretrainConfig):
        return restore_model(config.model, checkpoint)
    task = empty_task(config)
    load_model(checkpoint, task)
    return task


def _config_of(checkpoint: Checkpoint) -> PretrainConfig | FinetuneConfig:
    """The config that a checkpoint was trained with. Raises UserError if it cannot be used."""
    from pydantic import ValidationError

    from cclm.config.files import CONFIGS
    from cclm.errors import UserError

    settings = checkpoint.state.get("config")
    if not isinstance(settings, dict):
        raise UserError(f"{checkpoint.source} does not tell its config, so cclm did not write it")
    if (task := settings.get("task", "pretrain")) not in CONFIGS:
        raise UserError(f"{checkpoint.source} is of task {task}, which this version of cclm does not know")
    try:
        return CONFIGS[task].model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(
            f"the config in {checkpoint.source} cannot be used ({key}: {first['msg']}); convert it with the version of "
            "cclm that wrote it"
        ) from None
