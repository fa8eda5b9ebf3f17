"""`cclm evaluate`: held-out retrieval of a trained model."""

from __future__ import annotations

import argparse

from cclm.cli.arguments import add_config_arguments, load_pretrain_config

EPILOG = """\
examples:
  cclm evaluate configs/demo/pretrain.yaml --checkpoint output/demo              the newest of a run
  cclm evaluate configs/demo/pretrain.yaml --checkpoint output/demo/step-00000700
  cclm evaluate configs/Pretrain_4m.yaml --checkpoint data/cclm_4m.th            a published model
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand and its options."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure retrieval of a trained model, language by language",
        description="Print recall of held-out image-text retrieval for every language of a config's evaluation block.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--checkpoint", required=True, metavar="PATH", help="checkpoint folder, run folder, or .th file"
    )
    parser.set_defaults(func=evaluate)


def evaluate(args: argparse.Namespace) -> None:
    """Measure and print.

    Raises:
        UserError: config, data or checkpoint cannot be used.
    """
    config = load_pretrain_config(args, "cclm evaluate takes task: pretrain for now")
    from cclm.training import run  # imports torch: seconds, and a wrong config should not wait for it

    run.evaluate(config, args.checkpoint)
