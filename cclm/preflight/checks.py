"""Runs checks one after the other, and says by one error what they have found."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cclm.errors import NodeError, UserError
from cclm.events import Journal, Notice, PreflightChecked
from cclm.storage import StoreUnavailable


@dataclass(frozen=True)
class Check:
    """One check."""

    name: str
    """As in the label of `cclm_preflight_ok`."""
    look: Callable[[], str]
    """Returns what is worth telling, or an empty string; raises UserError, NodeError or OSError."""


@dataclass(frozen=True)
class Preflight:
    """The checks of a launch."""

    of_machine: Sequence[Check]
    """Made first, since the number of processes may depend on the GPUs that can be used."""
    of_run: Callable[[int, int], Sequence[Check]]
    """Processes of this machine, fewest processes of the run -> what is checked for them."""
    is_all: bool = False
    """Whether nothing is started after the checks (`--preflight-only`)."""


def run_checks(checks: Sequence[Check], journal: Journal) -> Exception | None:
    """Make all checks, also after one has failed.

    Args:
        journal: gets a `PreflightChecked` for each check, and a `Notice` for each failure that is not returned.

    Returns:
        Why the run cannot start here; None if it can. Of several failures it is one that the user has to mend, if
        there is such a one: another machine would not help.
    """
    failures: list[Exception] = []
    for check in checks:
        start = time.monotonic()
        found, problem = "", None
        try:
            found = check.look()
        except (UserError, NodeError, StoreUnavailable) as error:
            failures.append(error)
            problem = str(error)
        except OSError as error:  # what a disk or a store refuses
            failures.append(UserError(str(error)))
            problem = str(error)
        journal.emit(PreflightChecked(check.name, problem, found, time.monotonic() - start))
    if not failures:
        return None
    worst = next((failure for failure in failures if isinstance(failure, UserError)), failures[0])
    for failure in failures:
        if failure is not worst:
            journal.emit(Notice(f"preflight: {failure}"))
    return worst
