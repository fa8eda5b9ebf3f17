"""Computes all items of a golden folder with this build, and compares them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cclm.parity.arithmetic import arithmetic_items
from cclm.parity.comparison import Comparison, Item, compare
from cclm.parity.finetuning import finetuning_items
from cclm.parity.golden import Golden, read_golden, stored_config
from cclm.parity.input_checks import MIN_CLEANING_LINES
from cclm.parity.pretraining import optimizer_items, state_items, step_items, weight_items
from cclm.parity.two_process import two_process_items

_FAILURES = (ValueError, IndexError, RuntimeError, TypeError, AttributeError, KeyError, ArithmeticError, AssertionError)


class Computed(NamedTuple):
    """What this build computes of a golden folder."""

    items: dict[str, Item]
    """By file and name."""
    failures: dict[str, str]
    """Group of items that could not be computed -> one line why."""


def compute(golden: Golden) -> Computed:
    """Compute every item that this build knows."""
    expected = golden.expected()
    groups: dict[str, Callable[[], dict[str, Item]]] = {
        "config": lambda: stored_config(golden),
        "states": lambda: state_items(golden),
        "steps": lambda: step_items(golden, expected),
        "weights": lambda: weight_items(golden),
        "optimizer": lambda: optimizer_items(golden),
        "fine-tuning": lambda: finetuning_items(golden, expected),
        "arithmetic": lambda: arithmetic_items(golden),
        "two processes": lambda: two_process_items(golden),
    }
    computed: dict[str, Item] = {}
    failures: dict[str, str] = {}
    for name, compute_items in groups.items():
        try:
            computed |= compute_items()
        except _FAILURES as error:
            failures[f"({name})"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return Computed(computed, failures | missing_sections(golden))


def missing_sections(golden: Golden) -> dict[str, str]:
    """Lists with fewer entries than the layout has. Computing from such a list would not fail."""
    lines = len(golden.section("text_cleaning"))
    if lines >= MIN_CLEANING_LINES:
        return {}
    name = f"extra.json/text_cleaning/{lines}..{MIN_CLEANING_LINES - 1}"
    return {name: "missing in the folder"}


def check(folder: str | Path) -> list[Comparison]:
    """Compare this build with a golden folder.

    Raises:
        UserError: the folder is incomplete, its inputs do not fit, or its weights do not fit its config.
    """
    golden = read_golden(folder)
    computed = compute(golden)
    return compare(golden.expected(), computed.items, computed.failures)
