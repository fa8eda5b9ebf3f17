"""A server process on loopback that tests may kill and start again, and that never outlives the tests."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# The kernel kills the server when the thread that started it ends, however it ends: so all are started by one thread
# that ends with this process, and tests may call `start` in threads of their own.
_STARTER = ThreadPoolExecutor(1, "starts servers")
_TIED = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class StoreError(Exception):
    """A store for tests could not be had; one sentence."""


class Server:
    """One process with a fixed command line; its ports stay the same over restarts."""

    def __init__(self, command: list[str], folder: Path, name: str, env: dict[str, str] | None = None) -> None:
        self._command, self._folder, self.name = command, folder, name
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        if self.running:
            return
        with open(self.log, "ab") as log:
            self._process = _STARTER.submit(
                subprocess.Popen, [sys.executable, "-S", "-c", _TIED, *self._command],
                cwd=self._folder, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            ).result()  # fmt: skip

    def wait_until(self, ready: Callable[[], object], seconds: float = 180) -> None:
        """Wait until `ready()` gives something true; its exceptions count as no."""
        deadline, said = time.monotonic() + seconds, ""
        while time.monotonic() < deadline:
            if not self.running:
                raise StoreError(f"{self.name} ended at once: {self._last_words()}")
            try:
                if ready():
                    return
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            time.sleep(0.1)
        raise StoreError(f"{self.name} was not ready after {seconds:.0f} s ({said}): {self._last_words()}")

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, no goodbye to clients."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing comes."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def log(self) -> Path:
        return self._folder / f"{self.name}.log"

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else "no log"


_RESERVED: list[socket.socket] = []
"""What keeps ports for this process until it ends."""


def free_ports(count: int, offset: int = 0) -> list[int]:
    """Ports on loopback, below those that the kernel gives to clients; each + `offset` is free too.

    A client that keeps connecting to a dead server's port in the kernel's own range can end up connected to itself.
    No other process of tests gets these ports while this one lives: several run at once, and a port is bound later.
    """
    found: list[int] = []
    numbers = random.SystemRandom()
    while len(found) < count:
        port = numbers.randrange(20000, 22000) if offset else numbers.randrange(22000, 30000)
        if port not in found and _is_free(port) and (not offset or _is_free(port + offset)) and _reserve(port):
            found.append(port)
    return found


def _reserve(port: int) -> bool:
    """Whether no other process of tests has this port. A name on Linux shows that; it ends with its process."""
    if sys.platform != "linux":
        return True
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0cclm-tests-port-{port}")
    except OSError:
        name.close()
        return False
    _RESERVED.append(name)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
