"""How a process knows that `cclm launch` started it, and how it ends together with its launcher."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

from cclm.launch_contract import ERROR_FILE, LAUNCHER_PID
from cclm.processes import has_ended

_PR_SET_PDEATHSIG = 1
"""Option of prctl(2)."""


def is_launched() -> bool:
    """Whether `cclm launch` started this process and prints what it reports."""
    return LAUNCHER_PID in os.environ and ERROR_FILE in os.environ


def die_with_launcher() -> None:
    """Let the kernel kill this process when its launcher ends, in whatever way that ends (Linux only).

    An orphan must not go on training and saving beside the next start of the same run.
    """
    launcher = os.environ.get(LAUNCHER_PID)
    if launcher is None or sys.platform != "linux":
        return
    if os.getppid() == int(launcher):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if has_ended(int(launcher)):  # before prctl was called, so its signal will not come
        os.kill(os.getpid(), signal.SIGKILL)
