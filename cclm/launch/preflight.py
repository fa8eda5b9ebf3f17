"""The launcher's part of the preflight: checks before the processes start, and what they are to measure."""

from __future__ import annotations

import os
import time

from cclm.events import Journal, Notice
from cclm.launch.causes import Cause, Failure, classify_exception
from cclm.launch_contract import MEASURES_NETWORK
from cclm.preflight.checks import Preflight, run_checks

_IN_A_POD = "KUBERNETES_SERVICE_HOST"
"""A variable that every pod has."""
_HOLD_SECONDS = 30.0
"""How long a pod on a broken machine stays. The training operator makes the next one at once, mostly on the same
machine, and such starts are not counted: a run whose other nodes are well must not run out of attempts."""


def check_machine(preflight: Preflight | None, journal: Journal) -> Failure | None:
    """Check this machine before torchrun's options are read: `auto` and `gpu` count the GPUs that can be used."""
    os.environ.pop(MEASURES_NETWORK, None)
    error = None if preflight is None else run_checks(preflight.of_machine, journal)
    return None if error is None else _failure(error, journal)


def check_run(preflight: Preflight, processes: int, min_nodes: int, journal: Journal) -> Failure | None:
    """Check what the run needs.

    Args:
        processes: of this machine.
        min_nodes: the fewest nodes that the run goes on with.
    """
    checks = preflight.of_run(processes, processes * min_nodes)
    error = run_checks(checks, journal)
    if error is not None:
        return _failure(error, journal)
    if preflight.is_all:
        names = ", ".join(check.name for check in (*preflight.of_machine, *checks))
        journal.emit(Notice(f"this machine can run it; checked: {names}"))
    return None


def _failure(error: Exception, journal: Journal) -> Failure:
    """Why the launch ends. A pod on a broken machine is held for a while."""
    failure = classify_exception(error)
    if failure.cause is Cause.HARDWARE and _IN_A_POD in os.environ:
        journal.emit(Notice(f"{failure.message}; this pod ends in {_HOLD_SECONDS:.0f} s, to be made again"))
        time.sleep(_HOLD_SECONDS)  # a signal ends it
    return failure


def measure_network(log_dir: str) -> None:
    """Let the processes measure the network, and let NCCL say into a file which network it uses.

    Args:
        log_dir: a folder that is deleted at the end. A user who has set NCCL_DEBUG gets NCCL's log as set.
    """
    os.environ[MEASURES_NETWORK] = "1"
    if not any(name in os.environ for name in ("NCCL_DEBUG", "NCCL_DEBUG_FILE", "NCCL_DEBUG_SUBSYS")):
        os.environ |= {
            "NCCL_DEBUG": "INFO",
            "NCCL_DEBUG_SUBSYS": "INIT,NET",
            "NCCL_DEBUG_FILE": os.path.join(log_dir, "nccl.%p"),
        }
