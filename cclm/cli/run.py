"""`cclm run`: the published launcher, flag for flag."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace

from cclm.cli.arguments import add_overrides, take_any_order
from cclm.cli.metrics import while_serving_metrics
from cclm.cli.parser import Subparsers
from cclm.cli.run_commands import DEFAULT_MODEL, TASKS, Flags, commands_of
from cclm.config.paths import expand_home
from cclm.errors import UserError

DESCRIPTION = """\
The launcher of the published code, with its flags: pre-training, fine-tuning and tests of every task of the paper.
It finds the task's config, translates the flags to a command of cclm, prints that and runs it."""

EPILOG = """\
tasks:
  pretrain_cclm_3m, pretrain_cclm_4m   pre-training (configs/Pretrain_*.yaml)
  itr_multi30k, itr_coco               retrieval; --config says which languages are trained on (default: all)
  xvnli                                does the image entail the sentence? English; ar es fr ru
  gqa                                  GQA, and xGQA in bn de id ko pt ru zh
  nlvr                                 NLVR2, and MaRVL in id sw ta tr zh
  nlvr_domain                          text assignment on image-text data, then nlvr from it, in OUTPUT_DIR/nlvr_ft;
                                       domain.KEY=VALUE changes a setting of the first half
  xflickrco                            Flickr30k, and xFlickr&CO in de es id ja ru tr zh
  wit                                  WIT in en, and ar bg da el et id ja ko tr vi

few-shot (--fewshot), from the model fine-tuned on English:
  xvnli: ar es fr ru, with a number of shots   gqa: bn de id ko pt ru zh
  nlvr: id tr zh                               xflickrco: de es id ja ru tr zh, with a number of shots

examples:
  cclm run --task pretrain_cclm_4m --dist 1 --output_dir output/
  cclm run --dist 1 --task itr_multi30k --config configs/cclm-base-ft/Retrieval_multi30k_cs_ft.yaml \\
      --output_dir output/cs --bs 128 --seed 42 --epoch 10 --checkpoint pretrained_model.th
  cclm run --dist f4 --task xvnli --output_dir output/xvnli --checkpoint pretrained_model.th --bs 128
  cclm run --dist f4 --task xvnli --output_dir output/xvnli --checkpoint output/xvnli --evaluate --gmt
  cclm run --dist gpu0 --task xvnli --output_dir output/ar --checkpoint output/xvnli --bs 128 --fewshot ar,48 --lr 1e-6
  cclm run --dist 1 --task wit --output_dir output/wit --output_hdfs hdfs://nn/wit --checkpoint pretrained_model.th
  cclm run --dist 1 --task nlvr --output_dir output/nlvr --checkpoint pretrained_model.th training.precision=float32
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand and its options."""
    parser = subparsers.add_parser(
        "run",
        help="the published launcher: python3 run.py with the same flags",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", required=True, choices=TASKS, metavar="TASK", help="see below")
    parser.add_argument(
        "--dist", required=True, metavar="WHERE",
        help="1: all GPUs of this machine, or its CPU if it has none; all: also of the other machines that PET_NNODES, "
        "PET_NODE_RANK, PET_MASTER_ADDR or PET_RDZV_ENDPOINT name, give the same command on each; f4: the first four "
        "GPUs; l4: GPUs 4 to 7; gpuN: GPU N alone",
    )  # fmt: skip
    parser.add_argument("--output_dir", type=expand_home, required=True, help="where checkpoints and results go")
    parser.add_argument(
        "--output_hdfs",
        type=expand_home,
        default="",
        help="a second place for them, as hdfs://nn/path or s3://bucket/x",
    )
    parser.add_argument("--config", type=expand_home, default="", help="config file, if not the task's own")
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="NAME",
        help="folder in configs/ where fine-tuning configs are looked for (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint",
        type=expand_home,
        default="",
        help="weights to start from: a published .th file, a run's folder, a checkpoint",
    )
    parser.add_argument(
        "--load_ckpt_from",
        type=expand_home,
        default="",
        help="nlvr_domain: result of an earlier text assignment, which is then left out",
    )
    parser.add_argument("--bs", type=int, default=-1, help="examples a step over all GPUs, for fine-tuning")
    parser.add_argument("--epoch", type=int, default=-1, help="epochs, if not the config's number")
    parser.add_argument("--seed", type=int, help="random seed (default: the config's, 42)")
    parser.add_argument("--lr", type=float, default=0.0, help="learning rate, if not the config's")
    parser.add_argument("--fewshot", default="", metavar="LANG[,SHOTS]", help="train on few examples of one language")
    parser.add_argument("--gmt", action="store_true", help="test on English machine translations of the tests")
    parser.add_argument("--evaluate", action="store_true", help="no training: test --checkpoint")
    parser.add_argument(
        "--missing-images", choices=("error", "skip"), default="",
        help="skip: leave annotations out whose image is not there, and count them",
    )  # fmt: skip
    parser.add_argument(
        "--resume", type=expand_home, default="", metavar="auto|never|FOLDER",
        help="auto (default): go on where an earlier run in output_dir was cut off; never: start anew",
    )  # fmt: skip
    add_overrides(parser, "training.epochs=3")
    take_any_order(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the commands one after the other; returns the first exit code that is not 0, or 0.

    Raises:
        UserError: flags, config, data or weights cannot be used.
    """
    with commands_to_run(args) as commands:
        launcher = launcher_of(args.dist)
        if launcher:  # it serves metrics itself
            return _run_all([[*launcher, *command] for command in commands])
        return while_serving_metrics(args, lambda: _run_all(commands))


def _run_all(commands: Sequence[Sequence[str]]) -> int:
    return next((code for command in commands if (code := _run(command))), 0)


@contextmanager
def commands_to_run(args: argparse.Namespace) -> Iterator[list[list[str]]]:
    """The commands of cclm that do the task, in order. A config from a store that they name is there until the end.

    Raises:
        UserError: flags contradict each other, or there is no such config.
    """
    flags = Flags(**{each.name: getattr(args, each.name) for each in fields(Flags)})
    with tempfile.TemporaryDirectory(prefix="cclm-config-") as folder:
        yield commands_of(replace(flags, config=_local_config(flags.config, folder)))


def _local_config(config: str, folder: str) -> str:
    """The path of a config file. One in a store is copied to `folder`. Raises UserError if there is no such file."""
    if "://" not in config:
        return config
    from cclm import storage

    target = os.path.join(folder, storage.name(config))
    try:
        storage.download(config, target)
    except FileNotFoundError:
        raise UserError(f"--config {config}: there is no such file; correct the address") from None
    return target


def launcher_of(dist: str) -> list[str]:
    """What stands before a command: `launch` with its options, or nothing for one process.

    Makes the GPUs that `--dist` names the only visible ones (CUDA_VISIBLE_DEVICES).

    Raises:
        UserError: `dist` names a GPU that is not there, or cannot be understood.
    """
    if "LOCAL_RANK" in os.environ:  # torchrun has started this process and its peers already
        return []
    wanted = _gpus_of(dist)
    import torch  # takes seconds, for which wrong flags should not wait

    gpus = torch.cuda.device_count()
    if wanted is None:
        processes = max(gpus, 1)
    else:
        if not gpus or max(wanted) >= gpus:
            has = f"has {gpus}, numbered from 0" if gpus else "has none; --dist 1 runs on the CPU"
            raise UserError(f"--dist {dist} is for GPU {' '.join(map(str, wanted))}, but this machine {has}")
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = visible.split(",") if visible else [str(i) for i in range(gpus)]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[i] for i in wanted)
        processes = len(wanted)
    if dist == "all" and any(name.startswith("PET_") for name in os.environ):
        own = [] if "PET_NPROC_PER_NODE" in os.environ else ["--nproc-per-node", str(processes)]
        return ["launch", *own, "--"]
    return ["launch", "--nproc-per-node", str(processes), "--"] if processes > 1 else []


def _gpus_of(dist: str) -> list[int] | None:
    """Numbers of the GPUs that `--dist` names; None for all that there are."""
    known = {"1": None, "all": None, "f4": [0, 1, 2, 3], "l4": [4, 5, 6, 7]}
    if dist in known:
        return known[dist]
    number = dist.removeprefix("gpu")
    if dist.startswith("gpu") and number.isascii() and number.isdigit():
        return [int(number)]
    raise UserError(f"--dist {dist}: give 1, all, f4, l4, or gpu and a number, as gpu0")


def _run(command: Sequence[str]) -> int:
    from cclm.cli.main import parse

    if os.environ.get("RANK", "0") == "0":
        print(f"$ cclm {shlex.join(command)}", file=sys.stderr, flush=True)
    args = parse(command)
    return int(args.func(args) or 0)
