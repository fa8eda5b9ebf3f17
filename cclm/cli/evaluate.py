"""`cclm evaluate`: a trained model, language by language: held-out retrieval, or the test of a downstream task."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cclm.cli.arguments import add_config_arguments, check_extras, load_any_config
from cclm.cli.finetune import add_task_options, options_of
from cclm.cli.metrics import add_metrics_argument, while_serving_metrics
from cclm.cli.parser import Subparsers
from cclm.config.paths import expand_home

if TYPE_CHECKING:
    from cclm.config.finetune import FinetuneConfig
    from cclm.config.pretrain import PretrainConfig

DESCRIPTION = """\
Test a model in every language of a config: held-out retrieval for a pre-training config, the task's test sets for a
fine-tuning config. All processes that torchrun started share the work; their number does not change the results."""

EPILOG = """\
Fine-tuning configs: results.json and predictions/SPLIT-LANGUAGE.jsonl in output_dir. Pre-training: retrieval.json.

examples:
  cclm evaluate configs/demo/pretrain.yaml --checkpoint output/demo              the newest of a run
  cclm evaluate configs/demo/pretrain.yaml --checkpoint output/demo/step-00000900
  cclm evaluate configs/Pretrain_4m.yaml --checkpoint data/cclm_4m.th            a published model
  cclm evaluate configs/demo/xvnli.yaml --checkpoint output/demo_xvnli           the best of a fine-tuning run
  cclm evaluate configs/cclm-base-ft/WIT.yaml --checkpoint output/wit --gmt      on machine translations
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand and its options."""
    parser = subparsers.add_parser(
        "evaluate",
        help="test a trained model, language by language",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    add_task_options(parser)
    parser.add_argument(
        "--checkpoint",
        type=expand_home,
        required=True,
        metavar="PATH",
        help="checkpoint folder, run folder, or .th file",
    )
    add_metrics_argument(parser)
    parser.set_defaults(func=evaluate, load_config=load_any_config)


def evaluate(args: argparse.Namespace) -> int:
    """Measure and print; returns the exit code.

    Raises:
        UserError: config, data or checkpoint cannot be used.
    """
    config = load_any_config(args)
    check_extras(config)
    from cclm.config.pretrain import PretrainConfig
    from cclm.errors import UserError

    if isinstance(config, PretrainConfig) and (args.fewshot or args.gmt):
        raise UserError(f"--fewshot and --gmt are for fine-tuning configs; {args.config} is for task pretrain")
    return while_serving_metrics(args, lambda: _evaluate(config, args))


def _evaluate(config: PretrainConfig | FinetuneConfig, args: argparse.Namespace) -> None:
    from cclm.config.pretrain import PretrainConfig
    from cclm.training.run_folder import no_trace_if_refused

    with no_trace_if_refused(config.output_dir, config.output_hdfs):
        # Imports torch: seconds, and a wrong config should not wait for it.
        from cclm.training.evaluation import evaluate_finetuned, evaluate_pretrained

        if isinstance(config, PretrainConfig):
            evaluate_pretrained(config, args.checkpoint)
        else:
            evaluate_finetuned(config, options_of(args))
