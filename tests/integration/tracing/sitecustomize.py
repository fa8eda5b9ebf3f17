"""Python imports this file at its start, in each process whose PYTHONPATH has this folder: it lists the files of cclm
whose functions are called, in the order of their first call. Line by line, so that a process may end in any way.

A line is JSON: window, thread, file, function. A new window begins, and files count again, when the training loop is
entered, and when a checkpoint is saved.
"""

import json
import os
import sys
import threading
from types import FrameType

WINDOWS = {("training/loop.py", "fit"): "batch", ("training/run.py", "save"): "checkpoint"}
_IS_FUNCTION = 1  # inspect.CO_OPTIMIZED: neither a module's body nor a class's


def is_import_or_exit(frame: FrameType | None, root: str) -> bool:
    """Whether a call comes from the body of a module that is being imported, or from the interpreter's end."""
    outermost = ""
    while frame is not None:
        outermost = frame.f_code.co_name
        if outermost == "<module>" and "importlib" in (frame.f_back.f_code.co_filename if frame.f_back else ""):
            return True
        frame = frame.f_back
    return outermost not in ("<module>", "_run_module_as_main", "_bootstrap")


def trace(folder: str, root: str) -> None:
    out = open(os.path.join(folder, str(os.getpid())), "a", buffering=1, encoding="utf-8")
    out.write(json.dumps(sys.orig_argv) + "\n")
    window, seen, lock = "", set(), threading.Lock()

    def call(frame: FrameType, event: str, _: object) -> None:
        nonlocal window, seen
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(root) or not code.co_flags & _IS_FUNCTION:
            return
        file = code.co_filename[len(root) :]
        next_window = WINDOWS.get((file, code.co_name), window)
        if next_window == window and file in seen:
            return
        if is_import_or_exit(frame, root):
            return
        with lock:
            if next_window != window:
                window, seen = next_window, set()
            if file not in seen:
                seen.add(file)
                out.write(json.dumps([window, threading.current_thread().name, file, code.co_qualname]) + "\n")

    threading.setprofile(call)
    sys.setprofile(call)


if "CCLM_TRACE" in os.environ:
    trace(os.environ["CCLM_TRACE"], os.environ["CCLM_TRACE_ROOT"])
