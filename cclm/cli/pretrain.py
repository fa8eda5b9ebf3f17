"""`cclm pretrain`: train a model from a config."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cclm.cli.arguments import add_config_arguments, add_training_arguments, check_extras, load_pretrain_config
from cclm.cli.metrics import add_metrics_argument, while_serving_metrics
from cclm.cli.parser import Subparsers

if TYPE_CHECKING:
    from cclm.config.pretrain import PretrainConfig

EPILOG = """\
Checkpoints, metrics.jsonl, log.txt and retrieval.json go to the config's output_dir and, with --output-hdfs, to a
second place. A run that was cut off goes on from the newest whole checkpoint of both when the same command is given
again. SIGTERM finishes the step, saves, and exits with 143; so does Ctrl-C, with 130.

examples:
  cclm pretrain configs/demo/pretrain.yaml
  cclm pretrain configs/demo/pretrain.yaml training.epochs=2 output_dir=output/short
  cclm pretrain configs/Pretrain_4m.yaml --output-hdfs hdfs://namenode/runs/4m
  cclm pretrain configs/Pretrain_4m.yaml output_dir=s3://bucket/runs/4m
  cclm pretrain configs/demo/pretrain.yaml --resume never
  cclm pretrain configs/demo/pretrain.yaml --resume output/demo/step-00000900 output_dir=output/branch
  cclm launch --nproc-per-node 8 -- pretrain configs/Pretrain_4m.yaml          eight GPUs of one machine
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand and its options."""
    parser = subparsers.add_parser(
        "pretrain",
        help="train a model from a config",
        description="Pre-train a model as a config says, on the processes that torchrun started, or on this one.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    add_training_arguments(parser)
    add_metrics_argument(parser)
    parser.set_defaults(func=pretrain, load_config=load)


def load(args: argparse.Namespace) -> PretrainConfig:
    """The run's config. Raises UserError if it cannot be used."""
    return load_pretrain_config(args, "cclm pretrain takes task: pretrain")


def pretrain(args: argparse.Namespace) -> int:
    """Train; returns the exit code.

    Raises:
        UserError: config, data or weights cannot be used.
    """
    config = load(args)
    check_extras(config)
    return while_serving_metrics(args, lambda: _pretrain(config, args.resume))


def _pretrain(config: PretrainConfig, resume: str) -> int:
    from cclm.training.run_folder import no_trace_if_refused, working_alone

    places = (config.output_dir, config.output_hdfs)
    with no_trace_if_refused(*places), working_alone(*places):
        from cclm.training import environment, pretraining  # imports torch: seconds, a wrong start should not wait

        with environment.StopSignal() as stop:
            return pretraining.pretrain(config, resume=resume, stop=stop)
