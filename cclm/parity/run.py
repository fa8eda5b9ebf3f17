"""All items of a golden folder, computed by this build."""

from __future__ import annotations

from pathlib import Path

from cclm.errors import UserError
from cclm.parity.arithmetic import arithmetic_items
from cclm.parity.compare import Item, Verdict, compare
from cclm.parity.finetuning import finetuning_items
from cclm.parity.golden import Golden, read_golden, stored_config
from cclm.parity.pretraining import optimizer_items, state_items, step_items, weight_items
from cclm.parity.two_process import two_process_items


def compute(golden: Golden) -> dict[str, Item]:
    """Every item this build knows, by file and name."""
    expected = golden.expected()
    found = stored_config(golden) | state_items(golden) | step_items(golden, expected) | weight_items(golden)
    found |= optimizer_items(golden) | finetuning_items(golden, expected) | arithmetic_items(golden)
    return found | two_process_items(golden)


def check(folder: str | Path) -> list[Verdict]:
    """Compare this build with a golden folder.

    Raises:
        UserError: the folder is incomplete, or its weights do not fit its config.
    """
    golden = read_golden(folder)
    try:
        computed = compute(golden)
    except KeyError as error:
        raise UserError(f"{folder}: {error} is missing from the golden numbers") from None
    return compare(golden.expected(), computed)
