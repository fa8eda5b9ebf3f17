"""A proxy on loopback that causes the faults it is given, in their order: one HTTP request a connection."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Answer:
    """Answer with this status instead of asking the store."""

    status: int
    body: bytes = b""


@dataclass(frozen=True)
class Cut:
    """Pass on so many bytes of the store's answer, then hang up."""

    after: int


@dataclass(frozen=True)
class Stall:
    """Take the request and say nothing for so long, then hang up."""

    seconds: float


Fault = Answer | Cut | Stall


class Proxy:
    """Listens while used as a context. Without faults it passes everything on."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._faults: deque[Fault | None] = deque()
        self.always: Fault | None = None
        """A fault for every request that finds no other."""
        self.only = b""
        """Faults meet requests whose first line holds this; all others pass."""
        self.requests = self.stalled = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def next(self, *faults: Fault | None) -> None:
        """The next requests meet these faults, one each; None is none."""
        self._faults.extend(faults)

    def urgent(self, fault: Fault) -> None:
        """The next request meets this fault, before those of `next`."""
        self._faults.appendleft(fault)

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(client,), daemon=True).start()

    def _handle(self, client: socket.socket) -> None:
        with client:
            try:
                self._one_request(client)
            except OSError:  # either side went away
                pass

    def _one_request(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = client.recv(65536)
            if not data:
                return
            head += data
        self.requests += 1
        fault: Fault | None = None
        if self.only in head.split(b"\r\n")[0]:
            fault = self._faults.popleft() if self._faults else self.always
        if isinstance(fault, Stall):
            self.stalled += 1
            time.sleep(fault.seconds)
            return
        if isinstance(fault, Answer):
            head_line = (
                f"HTTP/1.1 {fault.status} Fault\r\nContent-Length: {len(fault.body)}\r\nConnection: close\r\n\r\n"
            )
            client.sendall(head_line.encode() + fault.body)
            return
        self._pass_on(client, head, fault)

    def _pass_on(self, client: socket.socket, head: bytes, cut: Cut | None) -> None:
        """Send the request on and the answer back; both ends close after it: a connection is a request."""
        first, rest = head.split(b"\r\n", 1)
        lines = [
            line for line in rest.split(b"\r\n\r\n")[0].split(b"\r\n") if not line.lower().startswith(b"connection:")
        ]
        body = head.split(b"\r\n\r\n", 1)[1]
        with socket.create_connection(("127.0.0.1", self._upstream)) as server:
            server.sendall(b"\r\n".join([first, *lines, b"Connection: close", b"", b""]) + body)
            threading.Thread(target=_copy, args=(client, server), daemon=True).start()
            sent = 0
            while data := server.recv(65536):
                if cut is not None:
                    data = data[: cut.after - sent]
                client.sendall(data)
                sent += len(data)
                if cut is not None and sent >= cut.after:
                    client.shutdown(socket.SHUT_RDWR)
                    return


def _copy(source: socket.socket, target: socket.socket) -> None:
    """The rest of a request's body."""
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
