"""HDFS by hdfs-native: no JVM.

Traps that the code below goes around, all seen on a real NameNode:
- a client made before a fork hangs in the child (see `stores`);
- the fsspec class loses the case of a nameservice and everything after `#` in a path, so its client is asked directly;
- reading past the end panics; slices of memoryview are copied byte by byte; iterating a file gives no lines;
- a file is visible while it grows, and stays, cut, if its writer is killed;
- a NameNode that is away is waited for during three minutes before anybody hears of it.
"""

from __future__ import annotations

import logging
import os
import posixpath
from collections.abc import Iterable, Sequence
from typing import Any

import fsspec

from cclm.errors import UserError
from cclm.storage.patience import Incomplete, Verdict, judge
from cclm.storage.types import Entry, Found, each, temporary_name

log = logging.getLogger(__name__)

_BLOCK = 4 << 20  # bytes of one write


class Hdfs:
    """HDFS by hdfs-native. A file is written beside its final name and renamed, which HDFS does at once."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._renaming: set[str] = set()  # tokens of renames whose outcome is not known

    def find(self, path: str) -> Found:
        status = self._client.get_file_info(path)
        return Found(int(status.length), str(status.modification_time), bool(status.isdir))

    def entries(self, path: str) -> list[Entry]:
        found = self._client.list_status(path, False)
        return [Entry(posixpath.basename(s.path.rstrip("/")), int(s.length), bool(s.isdir)) for s in found]

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        reader = self._client.read(path)
        length = len(reader)

        def piece(bounds: tuple[int, int]) -> bytes:
            start, end = bounds[0], min(bounds[1], length)
            return bytes(reader.read_range(start, end - start)) if start < end else b""

        return each(piece, ranges)

    def write(self, path: str, data: bytes, new: bool, token: str) -> None:
        view = memoryview(data)
        blocks = (bytes(view[at : at + _BLOCK]) for at in range(0, len(data), _BLOCK))
        self._publish(path, blocks, len(data), new, token)

    def upload(self, local: str, path: str, token: str) -> None:
        with open(local, "rb") as file:
            blocks = iter(lambda: file.read(_BLOCK), b"")
            self._publish(path, blocks, os.path.getsize(local), False, token)

    def _publish(self, path: str, blocks: Iterable[bytes], size: int, new: bool, token: str) -> None:
        folder, name = posixpath.split(path)
        temporary = posixpath.join(folder, temporary_name(name, token))
        if token in self._renaming and not self._is_there(temporary):
            return  # an earlier try's rename arrived, only its answer did not
        try:
            writer = self._client.create(temporary, _overwrite())
            for block in blocks:
                writer.write(block)
            writer.close()
            if self.find(temporary).size != size:
                raise Incomplete(f"{temporary} holds fewer bytes than were written")
            self._renaming.add(token)
            self._client.rename(temporary, path, not new)
        except BaseException as error:
            if token in self._renaming and judge(error) is Verdict.OUTAGE:
                raise  # the rename may have been done; the next try sees by the temporary file
            self._renaming.discard(token)
            try:
                self._client.delete(temporary, False)
            except Exception as second:  # the store is away; list functions do not show such files
                log.debug("%s stays: %s", temporary, second)
            raise
        self._renaming.discard(token)

    def _is_there(self, path: str) -> bool:
        try:
            self.find(path)
        except FileNotFoundError:
            return False
        return True

    def remove(self, path: str) -> None:
        self._client.delete(path, False)

    def remove_folder(self, path: str) -> None:
        self._client.delete(path, True)


def _overwrite() -> Any:
    from hdfs_native import WriteOptions

    options = WriteOptions()
    options.overwrite = True
    return options


def open_hdfs(scheme: str, host: str) -> Hdfs:
    """The file system of a NameNode, nameservice or viewfs mount table; "" is the one of HADOOP_CONF_DIR."""
    from hdfs_native.fsspec import HdfsFileSystem, ViewfsFileSystem

    # Its own way of riding out a NameNode that is away takes three minutes before it says so; ours is above.
    # Some tries are needed to find the active one of several.
    options = {
        "dfs.client.failover.max.attempts": "3",
        "dfs.client.failover.sleep.base.millis": "100",
        "dfs.client.failover.sleep.max.millis": "500",
        "dfs.client.socket-timeout": "20000",
    }
    options |= {key: str(value) for key, value in fsspec.config.conf.get(scheme, {}).items()}
    name, _, port = host.partition(":")
    kind = ViewfsFileSystem if scheme == "viewfs" else HdfsFileSystem
    try:
        system = kind(host=name or None, port=int(port) if port else None, skip_instance_cache=True, **options)
    except RuntimeError as error:  # it reads the Hadoop configuration; nothing is connected yet
        raise UserError(
            f"{scheme}://{host}: no NameNode is known ({error}); write {scheme}://HOST:PORT/..., or let "
            "HADOOP_CONF_DIR name the folder of core-site.xml and hdfs-site.xml"
        ) from None
    return Hdfs(system.client)
