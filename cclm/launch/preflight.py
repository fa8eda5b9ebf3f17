"""The launcher's part of the preflight: checks before the processes start, and what they are to measure."""

from __future__ import annotations

import os

from cclm.events import Journal, Notice
from cclm.launch.causes import Failure, classify_exception
from cclm.launch_contract import MEASURES_NETWORK
from cclm.preflight.checks import Preflight, run_checks


def check_machine(preflight: Preflight | None, journal: Journal) -> Failure | None:
    """Check this machine before torchrun's options are read: `auto` and `gpu` count the GPUs that can be used."""
    os.environ.pop(MEASURES_NETWORK, None)
    error = None if preflight is None else run_checks(preflight.of_machine, journal)
    return None if error is None else classify_exception(error)


def check_run(preflight: Preflight, processes: int, min_nodes: int, journal: Journal) -> Failure | None:
    """Check what the run needs.

    Args:
        processes: of this machine.
        min_nodes: the fewest nodes that the run goes on with.
    """
    checks = preflight.of_run(processes, processes * min_nodes)
    error = run_checks(checks, journal)
    if error is not None:
        return classify_exception(error)
    if preflight.is_all:
        names = ", ".join(check.name for check in (*preflight.of_machine, *checks))
        journal.emit(Notice(f"this machine can run it; checked: {names}"))
    return None


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
