"""One door into a cluster: a port on the loopback address that leads to its API server.

The listening socket belongs to the machine's own network, the connections it makes to the cluster's: no address,
route or rule of the machine is touched, and every client (kubectl, Python, a browser) just uses 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

from . import linux


class Forwarder:
    """Copies bytes between 127.0.0.1:`port` and an address in another process's network, in a thread of its own."""

    def __init__(self, pid: int, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._pid = pid
        started = threading.Event()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait()
        if self._failure:
            raise self._failure

    def _run(self, started: threading.Event) -> None:
        try:
            linux.enter_network_of(self._pid)
        except OSError as error:
            self._failure = error
            started.set()
            return
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._listener))
        started.set()
        with contextlib.suppress(RuntimeError):
            self._loop.run_forever()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()  # the API server is down, perhaps on purpose: the client sees a closed connection
            return
        await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))

    def close(self) -> None:
        """Stop listening."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._listener.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()
