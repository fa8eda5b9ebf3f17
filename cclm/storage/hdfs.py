"""HDFS by hdfs-native, which needs no JVM.

The code below works around these faults, all seen with a real NameNode:
- A client that was made before a fork hangs in the child (see `stores`).
- The fsspec class loses the case of a nameservice and everything after `#` in a path. So its client is called directly.
- Reading past the end panics. Slices of a memoryview are copied byte by byte. Iterating a file gives no lines.
- A file is visible while it grows. If its writer is killed, the file stays, cut off.
- The client retries for three minutes before it reports that a NameNode is away.
- When servers die at a bad moment, a call sometimes never returns (seen in `write`, 0.14.7). It waits in native code,
  so Python handles no signal meanwhile (see `call_with_timeout`).
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
from cclm.storage.interface import Entry, FileInfo, chunks, map_threaded, temporary_name
from cclm.storage.patience import ErrorKind, IncompleteTransfer, classify, reason

log = logging.getLogger(__name__)

_WRITE, _READ = 4 << 20, 8 << 20  # bytes of one call
_REPLICAS = 3  # the client tries them one after another
_ACK_TIMEOUT = 60.0  # s that the client waits for a DataNode's answer to a write before it goes on without that one
_EXIT_WAIT = 5.0  # s that the process waits at its end for calls that are still running
_SOCKET_TIMEOUT = "dfs.client.socket-timeout"
_THREAD_NAME = "hdfs"  # of the threads that make the calls

T = TypeVar("T")


class Hdfs:
    """HDFS by hdfs-native. A file is written beside its final name and then renamed, which is atomic in HDFS.

    Args:
        client: `hdfs_native.Client`.
        call_timeout: s after which a call that has not ended is given up and counts as an outage.
    """

    def __init__(self, client: Any, call_timeout: float) -> None:
        self._client, self._call_timeout = client, call_timeout
        self._renaming: dict[str, str] = {}  # token -> temporary file, of renames whose outcome is unknown

    def find(self, path: str) -> FileInfo:
        status = self._call(self._client.get_file_info, path)
        changed = int(status.modification_time)  # in milliseconds
        return FileInfo(int(status.length), str(changed), bool(status.isdir), changed / 1000)

    def entries(self, path: str) -> list[Entry]:
        statuses = self._call(lambda: list(self._client.list_status(path, False)))
        return [Entry(posixpath.basename(s.path.rstrip("/")), int(s.length), bool(s.isdir)) for s in statuses]

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        reader = self._call(self._client.read, path)
        length = len(reader)

        def part(bounds: tuple[int, int]) -> bytes:
            start, end = bounds[0], min(bounds[1], length)
            blocks = [
                bytes(self._call(reader.read_range, start + first, last - first))
                for first, last in chunks(max(end - start, 0), _READ)
            ]
            return blocks[0] if len(blocks) == 1 else b"".join(blocks)

        return map_threaded(part, ranges)

    def write(self, path: str, data: bytes, new: bool, token: str) -> None:
        view = memoryview(data)
        blocks = (bytes(view[start:end]) for start, end in chunks(len(data), _WRITE))
        self._publish(path, blocks, len(data), new, token)

    def upload(self, local: str, path: str, token: str) -> None:
        with open(local, "rb") as file:
            blocks = iter(lambda: file.read(_WRITE), b"")
            self._publish(path, blocks, os.path.getsize(local), False, token)

    def _publish(self, path: str, blocks: Iterable[bytes], size: int, new: bool, token: str) -> None:
        folder, name = posixpath.split(path)
        earlier = self._renaming.get(token)
        # Each try has a temporary file of its own. The NameNode may still carry out requests of an earlier try at any
        # time, a deletion included.
        temporary = earlier or posixpath.join(folder, temporary_name(name, uuid.uuid4().hex))
        try:
            if earlier is None:
                self._fill(temporary, blocks, size)
                self._renaming[token] = temporary
            try:
                self._call(self._client.rename, temporary, path, not new)
            except FileNotFoundError:
                if earlier is None:
                    raise
                # Otherwise the rename of an earlier try was done and only its answer was lost.
        except BaseException as error:
            if token in self._renaming and classify(error) is ErrorKind.OUTAGE:
                raise  # the rename may have been done; if not, the next try does it: the temporary file is whole
            self._renaming.pop(token, None)
            try:
                self.remove(temporary)
            except Exception as removal_error:  # the store is away; listings do not show such files
                log.debug("%s stays: %s", temporary, removal_error)
            raise
        del self._renaming[token]

    def _fill(self, path: str, blocks: Iterable[bytes], size: int) -> None:
        writer = self._call(self._client.create, path, _overwrite())
        try:
            for block in blocks:
                self._call(writer.write, block)
            self._call(writer.close)
        finally:
            # For Python the writer is still open. Otherwise its finaliser would call its close, and wait, again.
            io.RawIOBase.close(writer)
        if self.find(path).size != size:
            raise IncompleteTransfer(f"{path} holds fewer bytes than were written")

    def remove(self, path: str) -> None:
        self._call(self._client.delete, path, False)

    def remove_folder(self, path: str) -> None:
        self._call(self._client.delete, path, True)

    def _call(self, call: Callable[..., T], *args: object) -> T:
        return call_with_timeout(self._call_timeout, call, *args)


def call_with_timeout(seconds: float, call: Callable[..., T], *args: object) -> T:
    """`call(*args)` in a thread of its own, so that the caller still handles signals and does not wait for ever.

    Raises:
        TimeoutError: there is no result after `seconds`. The thread goes on by itself and ends with the process.
        OSError: the call panicked: it raised an error that is no Exception.
    """
    future: Future[T] = Future()

    def run(future: Future[T]) -> None:
        try:
            future.set_result(call(*args))
        except Exception as error:
            future.set_exception(error)
        except BaseException as panic:  # of hdfs-native; callers catch Exception only
            failure = OSError(f"hdfs-native failed: {panic}")
            failure.__cause__ = panic
            future.set_exception(failure)
        finally:
            # An error holds this frame. With `future` in it, the error and the data would hold themselves in a cycle
            # until the garbage collector runs.
            del future

    threading.Thread(target=run, args=(future,), name=_THREAD_NAME, daemon=True).start()
    try:
        done, _ = wait([future], seconds)
        if not done:
            raise TimeoutError(f"HDFS was silent for {seconds:.0f} s")
        return future.result()
    finally:
        del future  # as above


@atexit.register
def _wait_for_calls() -> None:
    """Wait for running calls at the end of the process.

    A call that ends while the interpreter shuts down would abort the process, because native frames cannot be unwound.
    """
    deadline = time.monotonic() + _EXIT_WAIT
    # Threads are looked at, not joined: one that Ctrl-C interrupted while it was starting refuses to be joined.
    while time.monotonic() < deadline and any(thread.name == _THREAD_NAME for thread in threading.enumerate()):
        time.sleep(0.01)


def _overwrite() -> Any:
    from hdfs_native import WriteOptions

    options = WriteOptions()
    options.overwrite = True
    return options


def open_hdfs(scheme: str, host: str) -> Hdfs:
    """The file system of a NameNode, nameservice or viewfs mount table; with host "", that of HADOOP_CONF_DIR.

    Raises:
        UserError: the Hadoop configuration names no NameNode.
        ValueError: a setting is wrong.
    """
    from hdfs_native.fsspec import HdfsFileSystem, ViewfsFileSystem

    # By default the client retries for three minutes before it reports that a NameNode is away. `patience` retries
    # instead. A few tries are still needed to find the active one of several NameNodes.
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
    filesystem_class = ViewfsFileSystem if scheme == "viewfs" else HdfsFileSystem
    try:
        filesystem = filesystem_class(
            host=name or None, port=int(port) if port else None, skip_instance_cache=True, **options
        )
    except RuntimeError as error:  # from reading the Hadoop configuration; nothing is connected yet
        raise UserError(
            f"{scheme}://{host}: no NameNode is known ({reason(error)}); write {scheme}://HOST:PORT/..., or let "
            "HADOOP_CONF_DIR name the folder of core-site.xml and hdfs-site.xml"
        ) from None
    # The client needs almost as long to go around a node that is away. A shorter limit would stop it in the middle.
    return Hdfs(filesystem.client, call_timeout=_ACK_TIMEOUT + _REPLICAS * int(timeout) / 1000)
