"""`cclm data`: index, shard and check data files, and audit what training saw of them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from cclm.cli.arguments import add_overrides, take_any_order
from cclm.cli.parser import Parser, Subparsers
from cclm.config.paths import expand_home
from cclm.launch_contract import EXIT_USER_ERROR

_SAMPLE_SIZE = 1000
"""Records or images of each source that `check` reads."""

_URLS_HELP = "files or folders: paths, hdfs://, s3:// or gs:// URLs"

_INDEX = """\
Find where each record of line-JSON files or tar shards starts, in one pass over them, and keep that in two small files
beside each (FILE.idx, FILE.idx.json) or in --index-dir. With them training reads any record, in any order, and resumes
at once. Files in a store need an index; local ones are indexed at first use. Training refuses a file in a store that
has changed since, and a local one that became shorter: then give the command again. It passes over files whose index is
up to date."""

_SHARD = """\
Write line-JSON files (.gz, .bz2, .xz too) or tar shards anew, in the same order: as tar or line-JSON shards of one
size, with their index. In a tar, a line's base64 image becomes a member of its own, a quarter smaller; in line-JSON,
such a member becomes base64 again. OUT must be empty, and stays empty if anything goes wrong. If the command is cut
off, training refuses OUT, and the same command given again starts over."""

_CHECK = """\
Look through everything a config points at, on any machine, before a GPU is taken: files, formats, indexes, languages,
counts, images, weights, tokenizer, batch sizes. A thousand records and images of each source, and the first ones of
each file, are read as training reads them (--all: every one). Prints a row a source and split; exits with 2 if the run
could not be started. With --iglue DIR, read a whole IGLUE tree instead and count the examples of each task, split and
language."""

_AUDIT = """\
Print what a run saw: for each source and epoch, the records seen and skipped, a hash of the seen ones that does not
depend on their order, and whether each record was read exactly once. Every checkpoint brings the file (audit.jsonl in
the run's output folder) up to its step. With two runs, exit with 1 if they did not see the same records, or if their
files differ in number, records or bytes; where the files lie does not matter."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand and its own subcommands."""
    parser = subparsers.add_parser(
        "data",
        help="index, re-shard and check data files, and audit what training saw of them",
        description="Work on data files: here, in HDFS, S3 or GCS. `cclm data COMMAND --help` explains each.",
        epilog="examples:\n  cclm data index s3://bucket/cc3m\n  cclm data audit output/run_a output/run_b",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(func=partial(_print_help, parser))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add(
        commands, "index", index, "find where each record starts", _INDEX,
        "cclm data index data/cc3m",
        "cclm data index hdfs://namenode/data/cc3m s3://bucket/sbu",
        "cclm data index s3://public/laion --index-dir s3://mine/index      then data.index_dir=s3://mine/index",
    )  # fmt: skip
    _add(
        commands, "shard", shard, "write data files anew, as tar or line-JSON shards of one size", _SHARD,
        "cclm data shard data/cc3m-gz data/cc3m",
        "cclm data shard hdfs://namenode/cc3m s3://bucket/cc3m --format tar --size 1G",
    )  # fmt: skip
    _add(
        commands, "check", check, "look through what a config points at", _CHECK,
        "cclm data check configs/Pretrain_4m.yaml --processes 64",
        "cclm data check configs/cclm-base-ft/XVNLI_fewshot.yaml --fewshot ar,48",
        "cclm data check --iglue iglue",
    )  # fmt: skip
    _add(
        commands, "audit", audit, "what a run saw, or whether two runs saw the same", _AUDIT,
        "cclm data audit output/pretrain_4m",
        "cclm data audit output/run_a output/run_b",
    )  # fmt: skip
    _add_arguments(commands)


def _print_help(parser: Parser, args: argparse.Namespace) -> int:
    """What `cclm data` without a command does."""
    parser.print_help()
    return EXIT_USER_ERROR


def _add(
    commands: Subparsers,
    name: str,
    function: Callable[[argparse.Namespace], int | None],
    summary: str,
    description: str,
    *examples: str,
) -> None:
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog="\n  ".join(["examples:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(func=partial(_with_user_errors, function))


def _add_arguments(commands: Subparsers) -> None:
    index = commands.choices["index"]
    index.add_argument("urls", type=expand_home, nargs="+", metavar="URL", help=_URLS_HELP)
    index.add_argument(
        "--index-dir", type=expand_home, metavar="DIR", help="keep the index in this folder, of any store"
    )
    index.add_argument("--force", action="store_true", help="index again what is up to date")
    shard = commands.choices["shard"]
    shard.add_argument("urls", type=expand_home, nargs="+", metavar="IN", help=_URLS_HELP)
    shard.add_argument("out", type=expand_home, metavar="OUT", help="folder to write into")
    shard.add_argument("--format", choices=("tar", "lines"), default="tar", help="default: tar")
    shard.add_argument(
        "--size", type=_bytes, default="512M", metavar="N", help="bytes of a shard, as 64M or 1G; default: 512M"
    )
    shard.add_argument("--image-key", default="binary", metavar="KEY", help="field of a base64 image; default: binary")
    shard.add_argument("--caption-key", default="caption", metavar="KEY", help="field of a .txt; default: caption")
    shard.add_argument("--skip-broken", action="store_true", help="leave out what cannot be read, and say what it was")
    check = commands.choices["check"]
    check.add_argument("config", type=expand_home, nargs="?", help="YAML file, ours or a published one")
    add_overrides(check)
    check.add_argument("--all", action="store_true", help="read every record and image")
    check.add_argument("--processes", type=int, metavar="N", help="training processes that are to share the batches")
    check.add_argument("--fewshot", metavar="LANG[,SHOTS]", help="for a few-shot config: as for the run")
    check.add_argument("--iglue", type=expand_home, metavar="DIR", help="count the examples of an IGLUE tree")
    take_any_order(check)
    audit = commands.choices["audit"]
    audit.add_argument(
        "runs", type=expand_home, nargs="+", metavar="RUN", help="one or two output folders, or audit.jsonl files"
    )


def _bytes(text: str) -> int:
    """`64M` -> bytes."""
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:].upper(), 1)
    digits = text[:-1] if factor > 1 else text
    if not digits.isdigit() or int(digits) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, as 64M or 1G")
    return int(digits) * factor


def _with_user_errors(function: Callable[[argparse.Namespace], int | None], args: argparse.Namespace) -> int | None:
    """Run a command. Whatever a store or a disk refuses, the user can mend, so OSError becomes UserError."""
    from cclm.errors import UserError
    from cclm.storage import StoreUnavailable

    try:
        return function(args)
    except (UserError, StoreUnavailable, BrokenPipeError):
        raise
    except OSError as error:
        raise UserError(str(error)) from error


def index(args: argparse.Namespace) -> None:
    """Index files, several at a time, and print how many records there are.

    Raises:
        UserError: a file is missing, or is not what its name says.
    """
    from cclm.cli.progress import byte_bar
    from cclm.data.stored.files import data_files
    from cclm.data.stored.index import index_files

    where = "cclm data index"
    files = data_files(where, args.urls)
    with byte_bar("indexing") as bar:
        result = index_files(where, files, args.index_dir, force=args.force, bar=bar)
    kept = f", {result.fresh} of them up to date" if result.fresh else ""
    print(f"{len(files)} files{kept}: {result.records:,} records, {result.size / 1e9:,.2f} GB")
    for warning in [*result.changed, *(f"{file} holds no record" for file in result.empty)]:
        print(f"warning: {warning}")


def shard(args: argparse.Namespace) -> None:
    """Write shards, and print what was left out.

    Raises:
        UserError: an input cannot be read, or OUT is not empty.
    """
    from cclm.cli.progress import byte_bar
    from cclm.data.commands.sharding import ShardOptions, shard
    from cclm.data.stored.formats import Format

    kind = Format.TAR if args.format == "tar" else Format.LINES
    options = ShardOptions(kind, args.size, args.image_key, args.caption_key, args.skip_broken)
    with byte_bar("reading") as bar:
        made = shard("cclm data shard", args.urls, args.out, options, bar)
    print(f"{args.out}: {made.records:,} records in {made.shards} shards, {made.size / 1e9:,.2f} GB, indexed")
    for extension, count in sorted(made.dropped.items()):
        print(f"left out: {count:,} members .{extension}, for which lines have no place")
    for broken in made.broken[:10]:
        print(f"left out: {broken}")
    if made.broken:
        print(f"left out {len(made.broken):,} broken records in all")


def check(args: argparse.Namespace) -> int:
    """Print what there is, and each problem; returns 2 if there is a problem, else 0.

    Raises:
        UserError: the config itself cannot be used.
    """
    from cclm.errors import UserError

    if (args.config is None) == (args.iglue is None):
        raise UserError("cclm data check takes a config, or --iglue DIR")
    report = _check_iglue(args.iglue) if args.iglue else _check_config(args)
    print(report.text)
    for problem in report.problems:
        print(f"problem: {problem}")
    return EXIT_USER_ERROR if report.problems else 0


class _CheckReport(NamedTuple):
    text: str
    """A table of what there is."""
    problems: list[str]
    """A sentence each."""


def _check_iglue(folder: str) -> _CheckReport:
    from cclm.data.commands.iglue import count_iglue, iglue_table

    count = count_iglue(folder)
    problems = [file.problem for file in count.files if file.problem]
    text = iglue_table(count.files)
    if count.unknown:
        text += f"\nnot read, since their places say nothing: {', '.join(count.unknown)}"
    return _CheckReport(text, problems)


def _check_config(args: argparse.Namespace) -> _CheckReport:
    from cclm.cli.progress import record_bar
    from cclm.config.files import load_config
    from cclm.config.pretrain import PretrainConfig
    from cclm.data.annotations.annotation_sets import FewShot
    from cclm.data.commands.check import check_finetuning, check_pretraining, missing_places
    from cclm.data.commands.check_report import check_table
    from cclm.data.commands.sampling import Sampling
    from cclm.training.preflight import problems_of_settings

    processes = args.processes or int(os.environ.get("WORLD_SIZE", 1))
    config = load_config(args.config, args.overrides, processes=processes)
    shots = FewShot.parse(args.fewshot) if args.fewshot else None
    with record_bar("reading", 0) as bar:
        sampling = Sampling(None if args.all else _SAMPLE_SIZE, bar.update)
        if isinstance(config, PretrainConfig):
            reports = check_pretraining(config, sampling)
        else:
            reports = check_finetuning(config, sampling, shots)
    problems = [*problems_of_settings(config, processes), *missing_places(config)]
    problems += [report.sentence for report in reports if report.sentence is not None]
    return _CheckReport(check_table(reports), problems)


def audit(args: argparse.Namespace) -> int:
    """Print one run's audit, or compare two; returns 1 if they differ, else 0.

    Raises:
        UserError: a run has no audit.
    """
    from cclm.data.commands.audit_report import audit_differences, audit_table, read_audit
    from cclm.errors import UserError

    if len(args.runs) > 2:
        raise UserError(f"cclm data audit takes one run or two, not {len(args.runs)}")
    first, *others = [read_audit(run) for run in args.runs]
    if not others:
        print(audit_table(first))
        return 0
    differences = audit_differences(first, others[0], *args.runs)
    for difference in differences:
        print(difference)
    if not differences:
        seen = sum(line.count.seen for line in first.values())
        print(f"equal: {len(first)} epochs of sources, {seen:,} records seen")
    return 1 if differences else 0
