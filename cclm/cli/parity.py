"""`cclm parity DIR`: this build against numbers of the published implementation."""

from __future__ import annotations

import argparse

from cclm.cli.parser import Subparsers
from cclm.config.paths import expand_home

_DESCRIPTION = """\
Compute every number of a golden folder with this build and compare: losses and gradient norms of pre-training and of
each task, states and logits, optimizer groups and steps, learning rates, loaded weights, text cleaning, metrics, and a
two-process run (two processes are started here). One line an item: name, largest relative error, ok or not.
Exit 0 if every item is within 1e-4 relative (1e-3 after optimizer steps), else 1; an item that this build does not
know, and one that is missing in the folder, are failures. Unknown files, folders and input tensors are refused.

Numbers, learning rates and probabilities count relative to themselves; an element of another tensor relative to itself
plus 0.06 of the tensor's root mean square, so a change below 6e-6 of that root mean square is not seen (float32 noise).
Inputs that no published number depends on can change unnoticed: target_bbox of rows whose is_image is 1, scores of
extra.json/retrieval that change no rank, tokens behind a text's end, masked_pos where masked_ids is -100 (save the
row of mlm_logits), lang of text_cleaning, and the notes."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand and its options."""
    parser = subparsers.add_parser(
        "parity",
        help="compare this build with golden numbers",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  cclm parity tests/golden\n  cclm parity tests/golden --worst 10",
    )
    parser.add_argument(
        "folder", type=expand_home, metavar="DIR", help="golden folder: inputs, weights and expected numbers"
    )
    parser.add_argument("--worst", type=int, metavar="N", help="print only the N items with the largest errors")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare and print; returns 1 if a number differs, else 0. Raises UserError if the folder cannot be used."""
    from cclm.parity.suite import check

    verdicts = check(arguments.folder)
    shown = verdicts
    if arguments.worst is not None:
        shown = sorted(verdicts, key=lambda verdict: (not verdict.ok, verdict.error), reverse=True)[: arguments.worst]
    width = max(len(verdict.name) for verdict in shown)
    for verdict in shown:
        state = "ok" if verdict.ok else f"NOT OK {verdict.remark}".rstrip()
        print(f"{verdict.name:<{width}}  {verdict.error:8.1e}  {state}")
    wrong = sum(not verdict.ok for verdict in verdicts)
    worst = max(verdict.error for verdict in verdicts)
    print(f"{len(verdicts)} items, {wrong} not ok, largest relative error {worst:.1e}")
    return 1 if wrong else 0
