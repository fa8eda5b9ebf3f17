"""`cclm finetune`: train a downstream task from a config, and test it in every language."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING

from cclm.cli.arguments import add_config_arguments, add_training_arguments, check_extras, load_any_config
from cclm.cli.metrics import add_metrics_argument, while_serving_metrics
from cclm.cli.parser import Subparsers
from cclm.config.paths import expand_home

if TYPE_CHECKING:
    from cclm.config.finetune import FinetuneConfig
    from cclm.training.options import FinetuneOptions

DESCRIPTION = """\
Fine-tune a pre-trained model for retrieval, classification, reasoning (two images) or answering, validate it after each
epoch, keep the best model, and test that one in all languages of the config."""

EPILOG = """\
The best model goes to OUTPUT_DIR/best, and results go to results.json (each language, mean, mean without English).
Each example's input, prediction and right answer go to predictions/SPLIT-LANGUAGE.jsonl. A run that was cut off goes on
when the command is given again.

Weights: --checkpoint takes a published .th file, a checkpoint folder, or a run's folder (its best model, else its
newest checkpoint); pre-trained, or fine-tuned for the same task. Text assignment (task: text_assignment) prepares
reasoning.

examples:
  cclm finetune configs/demo/xvnli.yaml --checkpoint output/demo
  cclm finetune configs/cclm-base-ft/XVNLI.yaml --checkpoint data/cclm_4m.th training.epochs=5 output_dir=output/xvnli
  cclm finetune configs/cclm-base-ft/XVNLI_fewshot.yaml --checkpoint output/xvnli --fewshot ar,48 optimizer.lr=1e-6
  cclm finetune configs/cclm-base-ft/GQA.yaml --checkpoint output/gqa --evaluate       no training
  cclm launch --nproc-per-node 8 -- finetune configs/cclm-base-ft/WIT.yaml --checkpoint data/cclm_4m.th
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand and its options."""
    parser = subparsers.add_parser(
        "finetune",
        help="train a downstream task, and test it in every language",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    add_task_options(parser)
    parser.add_argument(
        "--checkpoint",
        type=expand_home,
        metavar="PATH",
        help="weights to start from (else model.weights of the config)",
    )
    parser.add_argument("--evaluate", action="store_true", help="no training: test the checkpoint")
    add_training_arguments(parser)
    add_metrics_argument(parser)
    parser.set_defaults(func=finetune, load_config=load)


def add_task_options(parser: argparse.ArgumentParser) -> None:
    """Options that `finetune` and `evaluate` share."""
    parser.add_argument(
        "--fewshot", metavar="LANG[,SHOTS]", help="fill in a few-shot config, as ar,48; validated on LANG's test set"
    )
    parser.add_argument("--gmt", action="store_true", help="test on English machine translations of the test sets")
    parser.add_argument(
        "--missing-images",
        choices=("error", "skip"),
        help="error: name the first image that is not there; skip: leave its annotations out and count them "
        "(default: the config's data.missing_images, which is error if unset)",
    )


def options_of(args: argparse.Namespace) -> FinetuneOptions:
    """What the command line says, as options of fine-tuning. Raises UserError for a --fewshot that cannot be parsed."""
    from cclm.data.annotations.annotation_sets import FewShot
    from cclm.training.options import FinetuneOptions

    return FinetuneOptions(
        checkpoint=args.checkpoint,
        shots=None if args.fewshot is None else FewShot.parse(args.fewshot),
        translated=args.gmt,
        missing=args.missing_images,
        resume=getattr(args, "resume", "auto"),
    )


def load(args: argparse.Namespace) -> FinetuneConfig:
    """The run's config. Raises UserError if it, or --fewshot, cannot be used."""
    config = load_any_config(args)
    from cclm.config.finetune import FinetuneConfig
    from cclm.data.annotations.annotation_sets import FewShot
    from cclm.errors import UserError

    if not isinstance(config, FinetuneConfig):
        raise UserError(f"{args.config} is a config for task {config.task}; cclm pretrain takes it")
    if args.fewshot is not None:
        FewShot.parse(args.fewshot)
    return config


def finetune(args: argparse.Namespace) -> int:
    """Train and test; returns the exit code.

    Raises:
        UserError: config, data or weights cannot be used.
    """
    config = load(args)
    check_extras(config)
    return while_serving_metrics(args, lambda: _finetune(config, args))


def _finetune(config: FinetuneConfig, args: argparse.Namespace) -> int:
    from cclm.config.finetune import TextAssignmentConfig
    from cclm.training.run_folder import no_trace_if_refused, working_alone

    places = (config.output_dir, config.output_hdfs)
    with no_trace_if_refused(*places), ExitStack() as stack:
        if not args.evaluate:
            stack.enter_context(working_alone(*places))
        # The next lines import torch: seconds, and a wrong start should not wait for it.
        from cclm.training.environment import StopSignal
        from cclm.training.evaluation import evaluate_finetuned
        from cclm.training.finetuning import finetune as train_and_test
        from cclm.training.text_assignment import train_text_assignment

        options = options_of(args)
        if args.evaluate:
            evaluate_finetuned(config, options)
            return 0
        with StopSignal() as stop:
            if isinstance(config, TextAssignmentConfig):
                return train_text_assignment(config, options, stop=stop)
            return train_and_test(config, options, stop=stop)
