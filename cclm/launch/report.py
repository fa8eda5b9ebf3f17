"""What a training process tells the one that launched it: a small JSON file, named by torchrun's environment.

Its layout is torchelastic's error file with a `cause` added, so plain torchrun shows our sentences, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

from cclm.launch.causes import Cause, Failure
from cclm.launch_contract import ERROR_FILE, LAUNCHER

_PR_SET_PDEATHSIG = 1


def is_launched() -> bool:
    """Whether `cclm launch` started this process and will print what it reports."""
    return LAUNCHER in os.environ and ERROR_FILE in os.environ


def die_with_launcher() -> None:
    """Let the kernel end this process with its launcher, however that ends: no orphan may go on and save (Linux)."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None or sys.platform != "linux":
        return
    if os.getppid() == int(launcher):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if _has_ended(launcher):  # before
        os.kill(os.getpid(), signal.SIGKILL)


def _has_ended(process: str) -> bool:
    """Also where nobody has asked yet how it ended: such a process is still listed (Linux)."""
    try:
        status = Path(f"/proc/{process}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:  # it may not be looked at
        return False
    return status.rpartition(b")")[2].split()[0] in (b"Z", b"X")


def write(failure: Failure, error: BaseException | None = None) -> bool:
    """Leave word of `failure` for the launcher, whole or not at all; returns whether someone will read it."""
    path = os.environ.get(ERROR_FILE)
    if not path:
        return False
    if failure.cause is Cause.BUG and error is not None:
        failure = replace(failure, traceback="".join(traceback.format_exception(error)))
    try:
        with open(f"{path}.part", "w", encoding="utf-8") as file:
            file.write(to_json(failure))
        os.replace(f"{path}.part", path)
    except OSError:
        return False
    return True


def to_json(failure: Failure) -> str:
    """`failure` in the layout of torchelastic's error files."""
    details = {"timestamp": str(int(time.time()))}
    if failure.traceback:
        details["py_callstack"] = failure.traceback
    return json.dumps({"cause": failure.cause.name, "message": {"message": failure.message, "extraInfo": details}})


def read(content: object) -> Failure | None:
    """What `write` left, as parsed JSON; None for anything else."""
    try:
        message = content["message"]  # type: ignore[index]
        return Failure(
            Cause[content["cause"]], str(message["message"]), str(message["extraInfo"].get("py_callstack", ""))  # type: ignore[index]
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError):
        return None
