"""The `cclm` command line: finds the subcommand, runs it, and turns errors into sentences and exit codes.

Each subcommand is a module with a function `add_parser(subparsers)`, which sets `func(args) -> int | None` as the
parser's default. Only the module of the chosen subcommand is imported, so `cclm --help` needs no torch.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from cclm import __version__
from cclm.cli.parser import Parser
from cclm.errors import UserError
from cclm.launch import exit_report, launched_process, process_group
from cclm.launch.causes import Cause, Failure, classify_exception
from cclm.launch_contract import EXIT_INTERRUPTED, EXIT_PREEMPTED, EXIT_USER_ERROR

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("cclm.cli.demo", "draw the demo world: a small data set in ten languages, in the original file formats"),
    "pretrain": ("cclm.cli.pretrain", "train a model from a config"),
    "finetune": ("cclm.cli.finetune", "train a downstream task, and test it in every language"),
    "evaluate": ("cclm.cli.evaluate", "test a trained model, language by language"),
    "launch": ("cclm.cli.launch", "run a command on several processes and machines; exit codes for schedulers"),
    "status": ("cclm.cli.status", "how a run is: step, losses, speed, time left, checkpoint, restarts, warnings"),
    "data": ("cclm.cli.data", "index, re-shard and check data files, and audit what training saw of them"),
    "run": ("cclm.cli.run", "the published launcher: python3 run.py with the same flags"),
    "describe": ("cclm.cli.describe", "print a config with all its defaults, and the model's parameter counts"),
    "report": ("cclm.cli.report", "draw losses, throughput and scores of runs, as a page or a picture"),
    "convert": ("cclm.cli.convert", "write a checkpoint in the published layout (.th)"),
    "parity": ("cclm.cli.parity", "compare this build with numbers of the published implementation"),
}
"""Name of a command -> its module, and its line in the help."""

_TRAINING = ("pretrain", "finetune", "evaluate")
"""Commands that several processes may run together."""

DESCRIPTION = """\
Cross-View Language Modeling (arXiv 2206.00621): one model for images and texts of many languages.

Commands take a YAML config (see configs/) and settings to change, as key.sub=value.
"""

EXAMPLES = """\
examples:
  cclm demo demo_world                                       draw a data set to try things on
  cclm pretrain configs/demo/pretrain.yaml                   train on it
  cclm pretrain configs/demo/pretrain.yaml optimizer.lr=3e-4 training.epochs=2
  cclm describe configs/Pretrain_4m.yaml                     see every setting of a run
  cclm COMMAND --help                                        more about one command
"""

EXIT_BROKEN_PIPE = 141

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP,
}  # fmt: skip
"""ENOENT is left out: a missing file is often the temporary file of a process that died."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Run one command.

    Returns:
        The exit code: 0, or what the command returned; after an exception the code of its cause
        (`cclm.launch.causes`): 2 after a UserError or when the system refuses a file, 130 after Ctrl-C, 128 and above
        for what may be tried again; 141 when the reader of a pipe has gone. Other exceptions are bugs, and are raised.
    """
    try:
        launched_process.die_with_launcher()
        args = parse(argv)
        if _command_in(argv) in _TRAINING:
            process_group.understand(os.environ)
        if not hasattr(args, "func"):
            _build_parser(argv).print_help()
            return EXIT_USER_ERROR
        code: int = args.func(args) or 0
        if code == EXIT_PREEMPTED:
            exit_report.write(Failure(Cause.PREEMPTED, "was stopped by SIGTERM, saved and left"))
        sys.stdout.flush()  # so that a closed pipe shows here, rather than when the interpreter exits
        return code
    except KeyboardInterrupt:
        if not launched_process.is_launched():
            print("cclm: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()  # `cclm describe ... | head`
        return EXIT_BROKEN_PIPE
    except Exception as error:
        failure = _failure_of(error)
        is_written = exit_report.write(failure, error)
        is_reported = is_written and launched_process.is_launched()  # the launcher prints it, once for all processes
        if failure.cause is Cause.BUG and not is_reported:
            raise
        if not is_reported:
            with contextlib.suppress(OSError):  # stderr may be a file on the same full disk; the exit code still tells
                print(f"cclm: error: {failure.message}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return failure.cause.code


def _failure_of(error: Exception) -> Failure:
    """Why the command failed. When the system refuses a file, the user can mend it."""
    failure = classify_exception(error)
    if failure.cause is Cause.BUG and isinstance(error, OSError):
        if error.errno in _NO_SPACE:
            place = "what is being written" if error.filename is None else error.filename
            return Failure(Cause.USER_ERROR, f"{place}: {error.strerror}; make room")
        if error.errno in _REFUSED and error.filename is not None:
            return Failure(Cause.USER_ERROR, f"{error.filename}: {error.strerror}; correct the path or its permissions")
    return failure


def _drop_output() -> None:
    """Drop what stdout does not take. Otherwise the interpreter complains once more when it flushes stdout at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of one command. argparse ends the process if they cannot be parsed.

    Raises:
        UserError: there is no such command.
    """
    return _build_parser(argv).parse_command_line(argv)


def _command_in(argv: Sequence[str]) -> str | None:
    """The command. No option before it takes a value, so it is the first word."""
    return next((word for word in argv if not word.startswith("-")), None)


def _build_parser(argv: Sequence[str]) -> Parser:
    parser = Parser(
        prog="cclm", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"cclm {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    chosen = _command_in(argv)
    if chosen is not None and chosen not in COMMANDS:
        guess = difflib.get_close_matches(chosen, COMMANDS, n=1)
        advice = f"did you mean {guess[0]}?" if guess else f"known are {', '.join(COMMANDS)}"
        raise UserError(f"{chosen!r} is not a command; {advice}")
    for name, (module, summary) in COMMANDS.items():
        if name == chosen:
            importlib.import_module(module).add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    return parser
