"""Arguments that commands share: a config file and settings to change, in any order with options."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

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
    """Add CONFIG and `key=value ...`; the latter may stand before, between and after options."""
    parser.add_argument("config", help="YAML file, ours or a published one")
    add_overrides(parser)
    parser.add_argument(
        "--output-hdfs",
        "--output_hdfs",
        metavar="URL",
        help="a second folder for checkpoints, log, metrics and results: hdfs://, s3://, gs:// or a path "
        "(the config's output_hdfs)",
    )
    take_any_order(parser)


def take_any_order(parser: argparse.ArgumentParser) -> None:
    """Let positional arguments of a subcommand stand before, between and after options."""
    plain = parser.parse_known_args

    def in_any_order(
        args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        # argparse can do it, but not for the parser of a subcommand, and calls parse_known_args on the way.
        parser.parse_known_args = plain  # type: ignore[method-assign]
        try:
            return parser.parse_known_intermixed_args(args, namespace)
        finally:
            parser.parse_known_args = in_any_order  # type: ignore[method-assign]

    parser.parse_known_args = in_any_order  # type: ignore[method-assign]


def add_resume_argument(parser: argparse.ArgumentParser) -> None:
    """Add --resume."""
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|FOLDER",
        help="auto: go on from the newest whole checkpoint in output_dir and output_hdfs; never: start anew, what is "
        "there is set aside; FOLDER: start from this checkpoint or run (path or URL), or go on if that was done before",
    )


def load_any_config(args: argparse.Namespace) -> PretrainConfig | FinetuneConfig:
    """The config that `add_config_arguments` asked for, whatever its task.

    Raises:
        UserError: the config cannot be used.
    """
    from cclm.config.files import load_config  # here, since `cclm --help` must not wait for pydantic

    # Published configs count per process. Where processes come and go, all that may come are meant.
    processes = os.environ.get(FULL_WORLD_SIZE) or os.environ.get("WORLD_SIZE", 1)
    return load_config(args.config, overrides_of(args), processes=int(processes))


def load_pretrain_config(args: argparse.Namespace, command: str) -> PretrainConfig:
    """The config that `add_config_arguments` asked for, for a command that takes pre-training configs only.

    Raises:
        UserError: the config cannot be used, or is for another task; `command` says what takes which task.
    """
    from cclm.config.pretrain import PretrainConfig
    from cclm.errors import UserError

    config = load_any_config(args)
    if not isinstance(config, PretrainConfig):
        raise UserError(f"{args.config} is a config for task {config.task}; {command}")
    return config


def overrides_of(args: argparse.Namespace) -> list[str]:
    """Settings to change, as `key=value`: those written so, and those that have options of their own."""
    return [*args.overrides, *([] if args.output_hdfs is None else [f"output_hdfs={json.dumps(args.output_hdfs)}"])]
