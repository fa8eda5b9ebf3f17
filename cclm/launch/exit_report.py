"""What a process leaves for its launcher about why it failed: a small JSON file, named by torchrun's environment.

The layout is torchelastic's error file with a `cause` added, so plain torchrun shows our sentences as well.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from dataclasses import replace

from cclm.launch.causes import Cause, Failure
from cclm.launch_contract import ERROR_FILE


def write(failure: Failure, error: BaseException | None = None) -> bool:
    """Write the report of `failure`, whole or not at all.

    Args:
        error: the exception behind it; a BUG is reported with its traceback.

    Returns:
        Whether someone will read the report: False without a launcher, and where the file cannot be written.
    """
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


def parse(content: object) -> Failure | None:
    """The failure in a report, given as parsed JSON; None if `content` is not such a report."""
    if not isinstance(content, dict):
        return None
    try:
        message = content["message"]
        callstack = message["extraInfo"].get("py_callstack", "")
        return Failure(Cause[content["cause"]], str(message["message"]), str(callstack))
    except (KeyError, TypeError, AttributeError):
        return None
