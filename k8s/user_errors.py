"""Mistakes of users are one sentence, also where TorchX would print a traceback."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import ClassVar

from cclm.errors import UserError
from cclm.launch_contract import EXIT_USER_ERROR


def show_as_sentences() -> None:
    """From now on, a UserError that nobody catches is printed as one sentence, and the process exits with 2.

    TorchX's commands catch only a few errors of their own.
    """
    if sys.excepthook is not _show:
        _Previous.hook, _Previous.thread_hook = sys.excepthook, threading.excepthook
        sys.excepthook, threading.excepthook = _show, _show_of_thread


class _Previous:
    hook = sys.excepthook
    thread_hook = threading.excepthook


class _Printed:
    """The sentences that were printed already: TorchX raises the first error of its threads once more at the end."""

    sentences: ClassVar[set[str]] = set()
    lock = threading.Lock()


def _print(error: UserError) -> None:
    with _Printed.lock:
        if str(error) in _Printed.sentences:
            return
        _Printed.sentences.add(str(error))
        print(f"error: {error}", file=sys.stderr, flush=True)


def _show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not isinstance(error, UserError):
        _Previous.hook(kind, error, traceback)
        return
    _print(error)
    # Python takes an exit that the hook itself asks for.
    sys.exit(EXIT_USER_ERROR)


def _show_of_thread(arguments: threading.ExceptHookArgs) -> None:
    """TorchX reads each replica's log in a thread. Its error is shown at once: the others may go on for days."""
    if isinstance(arguments.exc_value, UserError):
        _print(arguments.exc_value)
    else:
        _Previous.thread_hook(arguments)
