"""Another process that uses the adapter, so that nothing this process knows can help: started once, light to import."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any


class Peer:
    """Runs functions in one child process. `kill` ends it with SIGKILL, in the middle of what it does."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """The function's result, or its exception."""
        self.begin(function, *args)
        done, result = self._ours.recv()
        if not done:
            raise result
        return result

    def begin(self, function: Callable[..., Any], *args: Any) -> None:
        """Start a call without waiting for its end."""
        self._ours.send((function, args))

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _serve(connection: Any) -> None:
    while True:
        try:
            function, args = connection.recv()
        except EOFError:
            return
        try:
            connection.send((True, function(*args)))
        except Exception as error:
            connection.send((False, error))
