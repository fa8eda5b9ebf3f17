"""Saves in processes of their own that die when told to; no torch here, so they start at once."""

import multiprocessing
import os
import signal
from dataclasses import replace
from multiprocessing.reduction import DupFd

from cclm.checkpoints.messages import SaveRequest, WriterSetup
from cclm.checkpoints.mirror import Mirror
from cclm.checkpoints.writer import write

# Not forked from the tests' process: clients of stores have threads, which do not come along.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])


def start(request: SaveRequest, setup: WriterSetup, die_after: int = -1) -> multiprocessing.Process:
    """Start a save that gets SIGKILL after so many phases."""
    process = _CONTEXT.Process(target=_run, args=(request, setup, die_after, DupFd(setup.memory)))
    process.start()
    return process


def died(process: multiprocessing.Process) -> bool:
    """Wait for it; False if it came to its end."""
    process.join(240)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


def _run(request: SaveRequest, setup: WriterSetup, die_after: int, memory: DupFd) -> None:
    for number, _ in enumerate(write(request, replace(setup, memory=memory.detach()), [], Mirror("", []))):
        if number == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
