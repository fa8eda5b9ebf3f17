"""`cclm report`: curves of one or more runs, as a page or a picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from cclm.cli.parser import Subparsers
from cclm.config.paths import expand_home

_PAGE, _PICTURE = ".html", ".png"

EPILOG = """\
A run is the folder in which it writes metrics.jsonl (its output_dir or output_hdfs), while it trains or later. The page
needs no other file and no network. Drawing needs matplotlib, which the extra `report` installs (or pip install
matplotlib).

examples:
  cclm report output/demo                                       writes report.html
  cclm report output/demo output/short --out curves.png
  cclm report s3://bucket/runs/4m hdfs://nn/runs/3m --out 4m-3m.html --out 4m-3m.png
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand and its options."""
    parser = subparsers.add_parser(
        "report",
        help="draw losses, throughput and scores of runs",
        description="Draw losses, learning rate, gradient norms, throughput and scores of one or\n"
        "more runs, each in its colour, below a table of what each run is.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=expand_home, metavar="RUN", help="folder of a run: a path or a URL")
    parser.add_argument(
        "--out",
        action="append",
        type=expand_home,
        metavar="FILE",
        help=f"what to write, a path or a URL: FILE{_PAGE} or FILE{_PICTURE}; may be given twice "
        f"(default: report{_PAGE})",
    )
    parser.set_defaults(func=report)


def report(args: argparse.Namespace) -> None:
    """Draw; prints the name of each file that is written.

    Raises:
        UserError: there is no matplotlib, RUN is no run, or FILE is of another kind.
    """
    from cclm.errors import UserError

    outs: list[str] = args.out or [f"report{_PAGE}"]
    for out in outs:
        if not out.endswith((_PAGE, _PICTURE)):
            raise UserError(f"--out {out}: a report is a page, FILE{_PAGE}, or a picture, FILE{_PICTURE}")
    if find_spec("matplotlib") is None:
        raise UserError("cclm report draws with matplotlib, which is not installed: pip install matplotlib")

    from cclm import storage

    for out in outs:
        with _refusing(out):
            if storage.is_folder(out):
                raise UserError(f"--out {out} is a folder; name a file")

    from cclm.curves.overview import overview
    from cclm.curves.panels import sections_of
    from cclm.curves.runs import read_runs

    runs = read_runs(args.runs)
    for run in runs:
        for note in run.notes:
            print(f"cclm report: {note}", file=sys.stderr)
    from cclm.curves.figure import report_png
    from cclm.curves.page import report_page

    title = f"cclm: {', '.join(run.name for run in runs)}"
    rows, sections = overview(runs), sections_of(runs)
    for out in outs:
        draw_page = out.endswith(_PAGE)
        data = (
            report_page(title, rows, sections, runs).encode("utf-8", "xmlcharrefreplace")
            if draw_page
            else report_png(title, rows, sections, runs)
        )
        with _refusing(out):
            storage.write_atomic(out, data)
        print(out)


@contextmanager
def _refusing(out: str) -> Iterator[None]:
    """An error of the disk is one of the user, who named the file. One of a store says what it is itself."""
    from cclm.errors import UserError
    from cclm.storage import StoreUnavailable

    try:
        yield
    except StoreUnavailable:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--out {out} cannot be written ({reason}); name a file in a folder that takes it") from None
