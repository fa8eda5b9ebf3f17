"""HDFS by hdfs-native: no JVM.

Traps that the code below goes around, all seen on a real NameNode:
- a client made before a fork hangs in the child (see `stores`);
- the fsspec class loses the case of a nameservice and everything after `#` in a path, so its client is asked directly;
- reading past the end panics; slices of memoryview are copied byte by byte; iterating a file gives no lines;
- a file is visible while it grows, and stays, cut, if its writer is killed;
- a NameNode that is away is waited for during three minutes before anybody hears of it;
- now and then, when servers die at a bad moment, a call never returns (seen in `write`, 0.14.7), and as it waits in
  native code, no signal is heard meanwhile (see `in_time`).
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import posixpath
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import fsspec

from cclm.errors import UserError
from cclm.storage.patience import Incomplete, Verdict, judge
from cclm.storage.types import Entry, Found, each, pieces, temporary_name

log = logging.getLogger(__name__)

_WRITE, _READ = 4 << 20, 8 << 20  # bytes of one call
_REPLICAS = 3  # which the client asks one after another, if need be
_ACK = 60.0  # s for which it waits for a DataNode's answer to a write, before it goes on without that one
_LEAVING = 5.0  # s that the end of the process waits for calls under way
_SOCKET_TIMEOUT = "dfs.client.socket-timeout"
_THREAD = "hdfs"  # name of the threads that calls are made in

T = TypeVar("T")


class Hdfs:
    """HDFS by hdfs-native. A file is written beside its final name and renamed, which HDFS does at once.

    Args:
        client: `hdfs_native.Client`.
        silence: s after which a call that has not ended is given up, as an outage.
    """

    def __init__(self, client: Any, silence: float) -> None:
        self._client, self._silence = client, silence
        self._renaming: dict[str, str] = {}  # token -> temporary file, of renames whose outcome is not known

    def find(self, path: str) -> Found:
        status = self._ask(self._client.get_file_info, path)
        return Found(int(status.length), str(status.modification_time), bool(status.isdir))

    def entries(self, path: str) -> list[Entry]:
        found = self._ask(lambda: list(self._client.list_status(path, False)))
        return [Entry(posixpath.basename(s.path.rstrip("/")), int(s.length), bool(s.isdir)) for s in found]

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        reader = self._ask(self._client.read, path)
        length = len(reader)

        def part(bounds: tuple[int, int]) -> bytes:
            start, end = bounds[0], min(bounds[1], length)
            found = [
                bytes(self._ask(reader.read_range, start + first, last - first))
                for first, last in pieces(max(end - start, 0), _READ)
            ]
            return found[0] if len(found) == 1 else b"".join(found)

        return each(part, ranges)

    def write(self, path: str, data: bytes, new: bool, token: str) -> None:
        view = memoryview(data)
        blocks = (bytes(view[start:end]) for start, end in pieces(len(data), _WRITE))
        self._publish(path, blocks, len(data), new, token)

    def upload(self, local: str, path: str, token: str) -> None:
        with open(local, "rb") as file:
            blocks = iter(lambda: file.read(_WRITE), b"")
            self._publish(path, blocks, os.path.getsize(local), False, token)

    def _publish(self, path: str, blocks: Iterable[bytes], size: int, new: bool, token: str) -> None:
        folder, name = posixpath.split(path)
        earlier = self._renaming.get(token)
        # Another one for each try: what a try before left to the NameNode may be done at any time, deletion included.
        temporary = earlier or posixpath.join(folder, temporary_name(name, uuid.uuid4().hex))
        try:
            if earlier is None:
                self._fill(temporary, blocks, size)
                self._renaming[token] = temporary
            try:
                self._ask(self._client.rename, temporary, path, not new)
            except FileNotFoundError:
                if earlier is None:
                    raise
                # Else an earlier try's rename has arrived, only its answer did not.
        except BaseException as error:
            if token in self._renaming and judge(error) is Verdict.OUTAGE:
                raise  # the rename may have been done; if not, the next try does it, as the temporary file is whole
            self._renaming.pop(token, None)
            try:
                self.remove(temporary)
            except Exception as second:  # the store is away; list functions do not show such files
                log.debug("%s stays: %s", temporary, second)
            raise
        del self._renaming[token]

    def _fill(self, path: str, blocks: Iterable[bytes], size: int) -> None:
        writer = self._ask(self._client.create, path, _overwrite())
        try:
            for block in blocks:
                self._ask(writer.write, block)
            self._ask(writer.close)
        finally:
            io.RawIOBase.close(writer)  # to Python it is open still: who lets go of it would wait for another close
        if self.find(path).size != size:
            raise Incomplete(f"{path} holds fewer bytes than were written")

    def remove(self, path: str) -> None:
        self._ask(self._client.delete, path, False)

    def remove_folder(self, path: str) -> None:
        self._ask(self._client.delete, path, True)

    def _ask(self, call: Callable[..., T], *args: object) -> T:
        return in_time(self._silence, call, *args)


def in_time(seconds: float, call: Callable[..., T], *args: object) -> T:
    """`call(*args)`, made in a thread of its own, so that the caller hears signals and does not wait for ever.

    Raises:
        TimeoutError: after `seconds` there is no result; the thread is left to itself and ends with the process.
    """
    future: Future[T] = Future()

    def run(future: Future[T]) -> None:
        try:
            future.set_result(call(*args))
        except BaseException as error:
            future.set_exception(error)
        finally:
            del future  # an error holds this frame, and so would hold itself and the data until garbage is collected

    threading.Thread(target=run, args=(future,), name=_THREAD, daemon=True).start()
    try:
        done, _ = wait([future], seconds)
        if not done:
            raise TimeoutError(f"HDFS was silent for {seconds:.0f} s")
        return future.result()
    finally:
        del future  # as above


@atexit.register
def _let_end() -> None:
    """Calls that end while the interpreter is taken down would abort the process: native frames cannot be unwound."""
    deadline = time.monotonic() + _LEAVING
    # Looked at and not joined: one that Ctrl-C left just starting is there, too, and refuses to be joined.
    while time.monotonic() < deadline and any(thread.name == _THREAD for thread in threading.enumerate()):
        time.sleep(0.01)


def _overwrite() -> Any:
    from hdfs_native import WriteOptions

    options = WriteOptions()
    options.overwrite = True
    return options


def open_hdfs(scheme: str, host: str) -> Hdfs:
    """The file system of a NameNode, nameservice or viewfs mount table; "" is the one of HADOOP_CONF_DIR.

    Raises:
        UserError: the Hadoop configuration names no NameNode.
        ValueError: a setting is wrong.
    """
    from hdfs_native.fsspec import HdfsFileSystem, ViewfsFileSystem

    # Its own way of riding out a NameNode that is away takes three minutes before it says so; ours is above.
    # Some tries are needed to find the active one of several.
    options = {
        "dfs.client.failover.max.attempts": "3",
        "dfs.client.failover.sleep.base.millis": "100",
        "dfs.client.failover.sleep.max.millis": "500",
        _SOCKET_TIMEOUT: "20000",
    }
    options |= {key: str(value) for key, value in fsspec.config.conf.get(scheme, {}).items()}
    timeout = options[_SOCKET_TIMEOUT]
    if not (timeout.isascii() and timeout.isdigit() and int(timeout)):
        raise ValueError(f"{_SOCKET_TIMEOUT} is {timeout!r}, not a number of milliseconds from 1 on")
    name, _, port = host.partition(":")
    kind = ViewfsFileSystem if scheme == "viewfs" else HdfsFileSystem
    try:
        system = kind(host=name or None, port=int(port) if port else None, skip_instance_cache=True, **options)
    except RuntimeError as error:  # it reads the Hadoop configuration; nothing is connected yet
        raise UserError(
            f"{scheme}://{host}: no NameNode is known ({error}); write {scheme}://HOST:PORT/..., or let "
            "HADOOP_CONF_DIR name the folder of core-site.xml and hdfs-site.xml"
        ) from None
    # Longer than its own ways around a node take, which would be given up in the middle otherwise.
    silence = _ACK + _REPLICAS * int(timeout) / 1000
    return Hdfs(system.client, silence)
