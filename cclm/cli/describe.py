"""`cclm describe`: every setting of a config and how large its model is, or what a checkpoint holds."""

from __future__ import annotations

import argparse
from pathlib import Path

from cclm.cli.arguments import add_overrides
from cclm.cli.parser import Subparsers
from cclm.config.model import ModelConfig
from cclm.config.paths import expand_home

EPILOG = """\
For a config, the output is YAML with the parameter counts as comments, so it can be saved and used as a config. For a
checkpoint, it is the manifest; for a run's folder, a line for each checkpoint. The exit code is 1 if one is torn.

examples:
  cclm describe configs/Pretrain_4m.yaml
  cclm describe configs/demo/pretrain.yaml model.text.num_layers=8 > my.yaml
  cclm describe published.yaml --processes 8     a released file, translated to our settings
  cclm describe output/demo                      the checkpoints of a run
  cclm describe s3://bucket/run/step-00001000 --verify     read it all and compare with its checksums
"""

_WEIGHTS = (".th", ".pth", ".pt", ".bin", ".safetensors")
"""Ends of names of files of weights."""
PARTS = {
    "image encoder": "encoders.image_encoder.",
    "text encoder": "encoders.text_encoder.",
    "fusion encoder": "encoders.fusion_encoder.",
    "shared space": "space.",
    "token head": "token_head.",
    "matching head": "match_head.",
    "box head": "box_head.",
}
"""Part of the pre-training model -> what the names of its parameters begin with."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand and its options."""
    parser = subparsers.add_parser(
        "describe",
        help="print a config with all its defaults and the model's parameter counts, or a checkpoint",
        description="Print a config with its bases, overrides and defaults resolved, and the parameter counts of its\n"
        "model; or what a checkpoint or a run's folder holds.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config", type=expand_home, help="YAML file, ours or a published one; or a checkpoint's or run's folder"
    )
    add_overrides(parser)
    parser.add_argument(
        "--processes", type=int, default=1, help="training processes: batch sizes of published files are per process"
    )
    parser.add_argument(
        "--verify", action="store_true", help="read every byte of a checkpoint and compare with its checksums"
    )
    parser.set_defaults(func=describe)


def describe(args: argparse.Namespace) -> int:
    """Print settings and counts, or checkpoints; returns the exit code.

    Raises:
        UserError: the config cannot be used, or there is no such folder.
    """
    from cclm import storage

    if "://" in args.config or storage.is_folder(args.config):
        from cclm.cli.describe_checkpoint import describe_folder

        return describe_folder(args.config, verify=args.verify)
    from cclm.config.files import load_config, to_yaml
    from cclm.errors import UserError

    if not Path(args.config).exists() and (args.verify or Path(args.config).suffix not in (".yaml", ".yml")):
        raise UserError(
            f"there is no file or folder {args.config}; name a config file, a checkpoint's folder, or a run's folder"
        )
    if Path(args.config).suffix in _WEIGHTS:
        raise UserError(
            f"{args.config} is a file of weights, and cclm describe reads configs, checkpoints' folders and runs; "
            f"cclm evaluate CONFIG --checkpoint {args.config} checks whether the model of a config takes it"
        )
    if args.verify:
        raise UserError(f"--verify reads a checkpoint's or a run's folder, and {args.config} is a file; name that")
    config = load_config(args.config, args.overrides, processes=args.processes)
    print(to_yaml(config))
    counts = count_parameters(config.model)
    counts["all"] = sum(counts.values())
    width = max(len(f"{count:,}") for count in counts.values())
    print("# parameters of the pre-training model")
    for part, count in counts.items():
        print(f"#   {part:<15} {count:>{width},}")
    return 0


def count_parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters of each part of the pre-training model; tied ones count once.

    Nothing is allocated, so a model of any size can be counted.
    """
    import torch

    from cclm.model.cclm import CCLM

    with torch.device("meta"):
        model = CCLM(config)
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        part = next(part for part, prefix in PARTS.items() if name.startswith(prefix))
        counts[part] += parameter.numel()
    return counts
