"""Calls to stores that do not keep the launcher from leaving when it is told to.

A store that is away is waited for as long as `storage.patience()`, and a call that hangs may take longer still. A
scheduler kills what does not leave within its grace period. So these calls run in threads of their own, which end with
the process. It also keeps the exception that a signal raises out of the stores' libraries, which may swallow it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from cclm.signals import signals_noted

_T = TypeVar("_T")

_SECONDS_AFTER_SIGNAL = 5.0
"""How long the last calls may take once a signal has come."""
_INTERVAL = 0.1
"""Seconds between looks at whether a signal has come."""


def start(call: Callable[[], _T]) -> Future[_T]:
    """Begin a call in a thread of its own."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="store call", daemon=True).start()
    return future


def interruptible(call: Callable[[], _T]) -> _T:
    """The result of `call()`. What a signal handler raises ends the waiting at once, and the call is left alone."""
    return start(call).result()


def finish(call: Callable[[], object], *, is_stopped: bool) -> bool:
    """Make the last call of a launch, whose errors are its own affair. Signals that come meanwhile are only noted.

    Args:
        is_stopped: whether a signal has come before.

    Returns:
        Whether the call has ended. After a signal it gets five seconds.
    """
    with signals_noted() as signals:
        future, left = start(call), _SECONDS_AFTER_SIGNAL
        while left > 0 and not wait([future], _INTERVAL).done:
            left -= _INTERVAL if signals or is_stopped else 0.0
        return future.done()
