"""Arguments that commands share: a config file and settings to change, which may stand in any order with options."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cclm.config.paths import expand_home
from cclm.launch_contract import FULL_WORLD_SIZE

if TYPE_CHECKING:
    from cclm.config.finetune import FinetuneConfig
    from cclm.config.pretrain import PretrainConfig


def add_overrides(parser: argparse.ArgumentParser, example: str = "optimizer.lr=1e-4") -> None:
    """Add `key=value ...`."""
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help=f"settings to change, as {example}"
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add CONFIG, `key=value ...` and --output-hdfs."""
    parser.add_argument("config", type=expand_home, help="YAML file, ours or a published one")
    add_overrides(parser)
    parser.add_argument(
        "--output-hdfs",
        "--output_hdfs",
        type=expand_home,
        metavar="URL",
        help="a second folder for checkpoints, log, metrics and results: hdfs://, s3://, gs:// or a path "
        "(the config's output_hdfs)",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="write curves for TensorBoard into output_dir/tensorboard, too (pip install 'cclm[tensorboard]')",
    )
    take_any_order(parser)


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --resume and --grad-compress."""
    parser.add_argument(
        "--resume",
        default="auto",
        type=expand_home,
        metavar="auto|never|FOLDER",
        help="auto: go on from the newest whole checkpoint in output_dir and output_hdfs; never: start anew, what is "
        "there is set aside; FOLDER: start from this checkpoint or run (path or URL), or go on if that was done before",
    )
    parser.add_argument(
        "--grad-compress",
        choices=["none", "bf16"],
        help="how processes exchange gradients: bf16 halves the traffic and rounds the sums "
        "(the config's training.grad_compress)",
    )


def take_any_order(parser: argparse.ArgumentParser) -> None:
    """Let positional arguments of a subcommand stand before, between and after options.

    argparse can do that, but not for the parser of a subcommand, of which it calls only parse_known_args. So this
    method is replaced. The replacement steps aside while it runs, since argparse calls the method again on the way.
    """
    original = parser.parse_known_args

    def in_any_order(
        args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        parser.parse_known_args = original  # type: ignore[method-assign]  # see above
        try:
            return parser.parse_known_intermixed_args(args, namespace)
        finally:
            parser.parse_known_args = in_any_order  # type: ignore[method-assign, assignment]  # see above

    parser.parse_known_args = in_any_order  # type: ignore[method-assign, assignment]  # see above


def load_any_config(args: argparse.Namespace) -> PretrainConfig | FinetuneConfig:
    """The config that `add_config_arguments` asked for, whatever its task.

    Raises:
        UserError: the config cannot be used.
    """
    from cclm.config.files import load_config  # here, since `cclm --help` must not wait for pydantic

    # Batch sizes of published configs are per process. Where nodes come and go, they are meant for all of them.
    processes = getattr(args, "processes", None) or int(
        os.environ.get(FULL_WORLD_SIZE) or os.environ.get("WORLD_SIZE", "1")
    )
    return load_config(args.config, overrides_of(args), processes=processes)


def load_pretrain_config(args: argparse.Namespace, command: str) -> PretrainConfig:
    """The config that `add_config_arguments` asked for, for a command that takes pre-training configs only.

    Args:
        command: which tasks the command takes, as a sentence for the error.

    Raises:
        UserError: the config cannot be used, or is for another task.
    """
    from cclm.config.pretrain import PretrainConfig
    from cclm.errors import UserError

    config = load_any_config(args)
    if not isinstance(config, PretrainConfig):
        raise UserError(f"{args.config} is a config for task {config.task}; {command}")
    return config


def check_extras(config: PretrainConfig | FinetuneConfig) -> None:
    """Find out at the start whether the packages that a config needs beyond those of cclm are there.

    Raises:
        UserError: one is not installed.
    """
    if config.tensorboard:
        from cclm.metrics.tensorboard_files import check_installed

        check_installed()


def overrides_of(args: argparse.Namespace) -> list[str]:
    """Settings to change, as `key=value`: those given so, and those given by options of their own."""
    overrides: list[str] = list(args.overrides)
    if args.output_hdfs is not None:
        overrides.append(f"output_hdfs={json.dumps(args.output_hdfs)}")
    if args.tensorboard:
        overrides.append("tensorboard=true")
    if getattr(args, "grad_compress", None) is not None:  # `cclm evaluate` has no such option
        overrides.append(f"training.grad_compress={args.grad_compress}")
    return overrides
