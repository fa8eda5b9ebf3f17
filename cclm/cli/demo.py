"""`cclm demo`: draw the demo world."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from cclm.cli.parser import Subparsers
from cclm.config.paths import expand_home

EPILOG = """\
The same seed and sizes give the same files. A folder that already holds this very world is left as it is.

examples:
  cclm demo demo_world                      what configs/demo/*.yaml read
  cclm demo /tmp/small --tiny               a few pictures, made in seconds
  cclm demo big_world --image-text 50000 --parallel 50000
  cclm demo published --as-published        a folder in which the published commands work: cd there, then cclm run ...
"""

SIZES = {
    "image_side": "side of every picture, px",
    "image_text": "pictures with captions, for pre-training",
    "regions": "pictures with boxes, for pre-training",
    "mono": "pictures with captions of one language, for pre-training",
    "parallel": "sentences with a translation, for pre-training",
    "held_out_test": "pictures of held-out combinations, for the retrieval table",
    "held_out_validation": "the same, for choosing a model",
    "finetune_train": "examples in the English training set of each task",
    "finetune_test": "examples in each validation and test set of each task",
}


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand and its options: one for every field of DemoSize."""
    from cclm.demo.world import DemoSize

    parser = subparsers.add_parser(
        "demo",
        help="draw the demo world: a small data set in ten languages, in the original file formats",
        description="Draw scenes of coloured shapes and describe them in ten languages: data for pre-training, "
        "and for every downstream task in its original files and folders, with a tokenizer trained on the texts.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=_folder, help="folder to make; new, empty, or an earlier demo world")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other pictures (default 0)")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes that make sense, for trying things out")
    parser.add_argument(
        "--as-published",
        action="store_true",
        help="also a tokenizer and configs of a small model, where the commands of the published README look for them",
    )
    sizes = parser.add_argument_group("sizes")
    for field in dataclasses.fields(DemoSize):
        option = f"--{field.name.replace('_', '-')}"
        words = SIZES.get(field.name, field.name.replace("_", " "))
        sizes.add_argument(option, type=int, metavar="N", help=f"{words} (default {field.default})")
    parser.set_defaults(func=demo)


def _folder(text: str) -> Path:
    """An argument that is a folder."""
    return Path(expand_home(text))


def demo(args: argparse.Namespace) -> None:
    """Draw the world and say what is in it.

    Raises:
        UserError: a size is too small, or the folder holds something else.
    """
    from cclm.demo.world import DemoSize, make_demo_world

    options = {field.name: getattr(args, field.name) for field in dataclasses.fields(DemoSize)}
    given = {name: value for name, value in options.items() if value is not None}
    size = dataclasses.replace(DemoSize.TINY if args.tiny else DemoSize(), **given)
    counts = make_demo_world(args.out, seed=args.seed, size=size, as_published=args.as_published)
    print(f"{args.out}:")
    width = max(len(f"{count:,}") for count in counts.values())
    for kind, count in counts.items():
        print(f"  {count:>{width},} {kind}")
