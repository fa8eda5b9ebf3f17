"""`cclm status`: how a run is, from what it leaves in its folder."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cclm.cli.parser import Subparsers
from cclm.config.paths import expand_home

if TYPE_CHECKING:
    from cclm.cli.status_reading import RunStatus

DESCRIPTION = """\
How a run is, on one screen: what it does, step, losses, speed, time left, the newest checkpoint and its age, restarts
with their causes, broken records, and the last warning. It reads the run's folder, on a disk or in a store, and asks no
process, so it works from any machine that can read the folder, while the run lasts and afterwards."""

EPILOG = """\
A run writes status.json when something happens and at least every 30 s; a store gets it once a minute, and other files
less often where sending takes long. After 3 minutes without it, this command says "no sign of life". A run that lives
and makes no steps is said to make none.

phases:
  preparing      the model is built, or processes start again
  rendezvous     the launcher waits for other machines again; before they first meet there is no folder to look at
  training, evaluating, saving
  ended          all steps are done, and everything is saved
  stopped        by a signal; the same command goes on from the newest checkpoint
  failed         "ended by" says why

--watch ends with the run. A run that was stopped, has failed or gives no sign of life may be started again by a
scheduler, so --watch waits 10 minutes for that. Of a folder that only cclm evaluate has written, it shows the
evaluation.

exit codes: 0, whatever the run does; 2 where there is no run. Programs read --json: phase, step, total_steps, losses,
eta_seconds, checkpoint, is_silent and more (docs/metrics.md).

examples:
  cclm status output/demo
  cclm status output/demo --watch               look again every 5 s, until the run has ended or Ctrl-C
  cclm status hdfs://namenode/user/me/run --watch 60
  cclm status s3://bucket/run --json            one JSON object
"""

_INTERVAL = 5.0
_CLEAR = "\x1b[H\x1b[J"
"""Cursor to the top left, and clear from there."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand and its options."""
    parser = subparsers.add_parser(
        "status",
        help="how a run is",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="cclm status RUN [--json] [--watch [SECONDS]]",
    )
    parser.add_argument("run", type=expand_home, metavar="RUN", help="folder of a run: its output_dir or output_hdfs")
    parser.add_argument("--json", action="store_true", help="a JSON object, on one line, for programs")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=_INTERVAL,
        metavar="SECONDS",
        help=f"look again and again, every {_INTERVAL:g} s unless SECONDS says otherwise",
    )
    parser.set_defaults(func=show_status)


def show_status(args: argparse.Namespace) -> int:
    """Print how a run is, once or until it is over; returns the exit code.

    Raises:
        UserError: there is no run.
        StoreUnavailable: the store does not answer.
    """
    from cclm.cli.status_reading import read_status
    from cclm.cli.status_screen import screen
    from cclm.storage import StoreUnavailable

    has_answered = False
    while True:
        is_over = False
        try:
            status = read_status(args.run.rstrip("/") or "/")
            has_answered = True
            is_over = status.is_over
            text = _json(status) if args.json else screen(status)
        except StoreUnavailable as outage:
            if args.watch is None or args.json or not has_answered:
                raise
            text = str(outage)  # it may be back at the next look
        is_on_terminal = args.watch is not None and not args.json and sys.stdout.isatty()
        is_block = args.watch is not None and not args.json and not is_on_terminal
        print(f"{_CLEAR if is_on_terminal else ''}{text}{chr(10) if is_block else ''}", flush=True)
        if args.watch is None or is_over:
            return 0
        time.sleep(args.watch)


def _json(status: RunStatus) -> str:
    """One line. A number that is none, as a loss may be, is null: JSON has no other word for it."""
    return json.dumps(_finite(asdict(status)), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds; write RUN before --watch") from None
    if not (math.isfinite(seconds) and seconds > 0):
        raise argparse.ArgumentTypeError(f"{text} is not above 0; write the seconds until the next look, for example 5")
    return seconds
