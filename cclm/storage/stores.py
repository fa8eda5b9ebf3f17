"""The three kinds of store: HDFS, object stores, and whatever else fsspec opens. One try each; retries are above.

Traps that the code below goes around, all seen on real servers:
- hdfs-native: a client made before a fork hangs in the child; URLs lose the case of a nameservice and everything after
  `#`; reading past the end panics; slices of memoryview are copied byte by byte; a file is visible while it grows.
- s3fs: positional start and end mean something else; cat_ranges returns exceptions as data; listings are cached; a file
  object publishes what it has when the writer fails, so whole objects are put instead.
- gcsfs: its default class asks another service for the kind of bucket first, which an emulator answers after 60 s; its
  retries cannot be set and log tracebacks.
- rename is copy and delete on object stores, so nothing here depends on one; transactions cover half of fsspec's calls.
"""

from __future__ import annotations

import functools
import logging
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import fsspec

from cclm.errors import UserError
from cclm.storage.patience import Incomplete, MissingBucket, Verdict, judge

log = logging.getLogger(__name__)

_HDFS_BLOCK = 4 << 20  # bytes of one write
_PART, _PARTS_AT_ONCE = 16 << 20, 4  # bytes of one part of an upload; what is in memory at once is the product
_THREADS = 8


@dataclass(frozen=True)
class Found:
    """What a store knows of a path."""

    size: int
    tag: str | None
    """Changes with the content: ETag, generation or time of change."""
    is_folder: bool


@dataclass(frozen=True)
class Entry:
    """A file or folder in a folder."""

    name: str
    """Without the folder."""
    size: int
    """Bytes; 0 for folders."""
    is_folder: bool


class Store(Protocol):
    """What a store can do. Each call is one try; errors are the library's own, for `patience.judge`."""

    def find(self, path: str) -> Found:
        """Raises FileNotFoundError."""

    def entries(self, path: str) -> list[Entry]:
        """What is in a folder now. Where folders do not exist by themselves, an absent one is empty."""

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes [start, end) of each range; less where the file ends."""

    def write(self, path: str, data: bytes, new: bool, token: str) -> None:
        """Publish `data` whole. `new` refuses to replace: FileExistsError. `token` names a temporary file."""

    def upload(self, local: str, path: str, token: str) -> None:
        """Publish a local file whole, replacing."""

    def remove(self, path: str) -> None:
        """Remove a file; absent is fine."""

    def remove_folder(self, path: str) -> None:
        """Remove a folder with all that is in it; absent is fine."""


def temporary_name(name: str, token: str) -> str:
    """How a file is called until it is published; `is_temporary` tells."""
    return f".{name}.{token}.tmp"


def is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def split(url: str) -> tuple[str, str, str]:
    """Scheme, authority and path (without a leading slash). By hand: urlparse cuts at # and ? and lowers the case."""
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    return scheme.lower(), authority, path


class Hdfs:
    """HDFS by hdfs-native. A file is written beside its final name and renamed, which HDFS does at once."""

    def __init__(self, client: Any) -> None:
        self._client = client

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

        return _each(piece, ranges)

    def write(self, path: str, data: bytes, new: bool, token: str) -> None:
        view = memoryview(data)
        blocks = (bytes(view[at : at + _HDFS_BLOCK]) for at in range(0, len(data), _HDFS_BLOCK))
        self._publish(path, blocks, len(data), new, token)

    def upload(self, local: str, path: str, token: str) -> None:
        with open(local, "rb") as file:
            blocks = iter(lambda: file.read(_HDFS_BLOCK), b"")
            self._publish(path, blocks, os.path.getsize(local), False, token)

    def _publish(self, path: str, blocks: Iterable[bytes], size: int, new: bool, token: str) -> None:
        folder, name = posixpath.split(path)
        temporary = posixpath.join(folder, temporary_name(name, token))
        try:
            writer = self._client.create(temporary, _hdfs_overwrite())
            for block in blocks:
                writer.write(block)
            writer.close()
            if self.find(temporary).size != size:
                raise Incomplete(f"{temporary} holds fewer bytes than were written")
            self._client.rename(temporary, path, not new)
        except BaseException:
            try:
                self._client.delete(temporary, False)
            except Exception as error:  # the store is away; list functions do not show such files
                log.debug("%s stays: %s", temporary, error)
            raise

    def remove(self, path: str) -> None:
        self._client.delete(path, False)

    def remove_folder(self, path: str) -> None:
        self._client.delete(path, True)


def _hdfs_overwrite() -> Any:
    from hdfs_native import WriteOptions

    options = WriteOptions()
    options.overwrite = True
    return options


class Objects:
    """S3, GCS and other fsspec file systems: objects are put whole, and are there when the put has ended."""

    def __init__(self, system: Any, has_buckets: bool, put_options: dict[str, Any]) -> None:
        self._system, self._has_buckets, self._put_options = system, has_buckets, put_options
        self._seen_buckets: set[str] = set()
        self._refuses_to_replace: bool | None = None  # not known before the first exclusive write

    def find(self, path: str) -> Found:
        self._system.invalidate_cache()
        try:
            info = self._system.info(path)
        except FileNotFoundError as error:
            self._check_bucket(path, error)
            raise
        tag = info.get("ETag") or info.get("generation") or info.get("mtime") or info.get("LastModified")
        size = int(info.get("size") or 0)
        return Found(size, None if tag is None else str(tag).strip('"'), info["type"] == "directory")

    def entries(self, path: str) -> list[Entry]:
        self._system.invalidate_cache()
        try:
            found = self._system.ls(path, detail=True)
        except FileNotFoundError as error:
            self._check_bucket(path, error)
            return []
        names = [(info["name"].rstrip("/").rsplit("/", 1)[-1], info) for info in found]
        # The placeholder of a folder, and the object itself if `path` is one, are not in the folder.
        return [
            Entry(name, int(info.get("size") or 0), info["type"] == "directory")
            for name, info in names
            if info["name"].strip("/") != path.strip("/")
        ]

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        if len(ranges) == 1:
            return [self._read(path, *ranges[0])]
        return _each(lambda bounds: self._read(path, *bounds), ranges)

    def _read(self, path: str, start: int, end: int) -> bytes:
        if start >= end:
            return b""
        try:
            return bytes(self._system.cat_file(path, start=start, end=end))
        except Exception as error:
            verdict = judge(error)
            if verdict is Verdict.PAST_END:
                return b""
            if verdict is Verdict.ABSENT:
                self._check_bucket(path, error)
            raise

    def write(self, path: str, data: bytes, new: bool, token: str) -> None:
        if new and self._refuses_to_replace is False and self._system.exists(path):
            raise FileExistsError(path)
        self._put(path, lambda: self._system.pipe_file(path, data, mode="create" if new else "overwrite"))
        if new and self._refuses_to_replace is None:
            self._try_condition(path, data)

    def _try_condition(self, path: str, data: bytes) -> None:
        """Put what was just put again, on condition that it is not there: shows whether the store heeds conditions."""
        try:
            self._system.pipe_file(path, data, mode="create")
            self._refuses_to_replace = False
            log.warning("the store of %s replaces files although told not to: two writers of one file both win", path)
        except Exception as error:
            if judge(error) is not Verdict.OUTAGE:
                self._refuses_to_replace = True

    def upload(self, local: str, path: str, token: str) -> None:
        self._put(path, lambda: self._system.put_file(local, path, **self._put_options))
        size = os.path.getsize(local)
        if (stored := self.find(path).size) != size:
            raise Incomplete(f"{path} holds {stored} bytes after an upload of {size}")

    def _put(self, path: str, put: Callable[[], Any]) -> None:
        try:
            put()
        except Exception as error:
            if judge(error) is Verdict.ABSENT:
                self._check_bucket(path, error)
            raise

    def remove(self, path: str) -> None:
        try:
            self._system.rm_file(path)
        except Exception as error:
            if judge(error) is not Verdict.ABSENT:
                raise

    def remove_folder(self, path: str) -> None:
        self._system.invalidate_cache()
        try:
            inside = list(self._system.find(path.rstrip("/") + "/"))
        except FileNotFoundError:
            inside = []
        _each(self.remove, inside)

    def _check_bucket(self, path: str, error: BaseException) -> None:
        """Raise MissingBucket if the bucket is what is missing: stores say 404 for both."""
        bucket = path.split("/")[0]
        if not self._has_buckets or bucket in self._seen_buckets:
            return
        try:
            self._ask_for_bucket(bucket)
        except Exception as answer:
            if judge(answer) is Verdict.ABSENT:
                raise MissingBucket(f"the bucket {bucket} does not exist; create it or correct the URL") from error
            if judge(answer) is Verdict.OUTAGE:
                raise
        self._seen_buckets.add(bucket)

    def _ask_for_bucket(self, bucket: str) -> None:
        if hasattr(self._system, "call_s3"):
            self._system.call_s3("head_bucket", Bucket=bucket)
        else:
            self._system.call("GET", "b/{}", bucket, json_out=True)


def _each(call: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """`call` of each item, some at a time; the first error ends it."""
    if len(items) <= 1:
        return [call(item) for item in items]
    with ThreadPoolExecutor(min(_THREADS, len(items))) as pool:
        return list(pool.map(call, items))


_opened: dict[tuple[int, str, str], Store] = {}
"""By process, scheme and authority. Stores of a parent process stay referenced and are never used: their threads did not
come along through the fork, and taking such a client down hangs."""


def open_store(url: str) -> tuple[Store, str]:
    """The store of `url`, opened on first use in this process, and the path in it. Raises UserError."""
    scheme, authority, path = split(url)
    host = authority if scheme in ("hdfs", "viewfs") else ""
    key = (os.getpid(), scheme, host)
    store = _opened.get(key)
    if store is None:
        store = _opened.setdefault(key, _open(url, scheme, host))
    if isinstance(store, Hdfs):
        return store, "/" + path.rstrip("/")
    return store, f"{authority}/{path}".rstrip("/")


def reopen() -> None:
    """Open stores anew from now on, with the settings that the environment holds now (fsspec reads it at import only)."""
    for key in [key for key in _opened if key[0] == os.getpid()]:
        del _opened[key]
    fsspec.config.conf.clear()
    fsspec.config.set_conf_files(fsspec.config.conf_dir, fsspec.config.conf)
    fsspec.config.set_conf_env(fsspec.config.conf)


def _open(url: str, scheme: str, host: str) -> Store:
    try:
        if scheme in ("hdfs", "viewfs"):
            return _open_hdfs(scheme, host)
        if scheme in ("s3", "s3a"):
            return _open_s3()
        if scheme in ("gs", "gcs"):
            return _open_gcs()
        kind = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise UserError(f"{url}: {error}; pip install cclm's dependencies again") from None
    except ValueError as error:
        known = "paths, hdfs://, s3:// and gs://"
        if scheme in fsspec.available_protocols() or scheme in ("hdfs", "s3", "gs"):
            raise UserError(f"{url}: the store's settings are wrong ({error}); correct them") from None
        raise UserError(f"{url}: {scheme}:// is no store that is known here; use {known}") from None
    return Objects(kind(use_listings_cache=False), has_buckets=False, put_options={})


def _open_hdfs(scheme: str, host: str) -> Hdfs:
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
    system = kind(host=name or None, port=int(port) if port else None, skip_instance_cache=True, **options)
    return Hdfs(system.client)


def _open_s3() -> Objects:
    import s3fs

    options = dict(fsspec.config.conf.get("s3", {}))
    config = {"retries": {"total_max_attempts": 1}, **options.get("config_kwargs", {})}
    system = s3fs.S3FileSystem(
        **{**options, "config_kwargs": config}, use_listings_cache=False, skip_instance_cache=True
    )
    system.retries = 3  # half a second for one part of a large upload; outages are waited for above
    return Objects(system, has_buckets=True, put_options={"chunksize": _PART, "max_concurrency": _PARTS_AT_ONCE})


def _open_gcs() -> Objects:
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import aiohttp
    from gcsfs.core import GCSFileSystem
    from gcsfs.retry import retry_request

    options = {**fsspec.config.conf.get("gs", {}), **fsspec.config.conf.get("gcs", {})}
    options.setdefault("requests_timeout", aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=15))
    system = GCSFileSystem(**options, use_listings_cache=False, skip_instance_cache=True)
    # Six tries with up to half a minute of silence become three; as for S3, they serve parts of large uploads.
    once = GCSFileSystem._request.__wrapped__
    system._request = functools.partial(retry_request(retries=3)(once), system)
    logging.getLogger("gcsfs").addFilter(_not_a_retry)
    return Objects(system, has_buckets=True, put_options={"chunksize": _PART})


def _not_a_retry(record: logging.LogRecord) -> bool:
    """False for gcsfs' tracebacks of failed tries: what comes of them is told by an exception."""
    text = record.getMessage()
    return "out of retries" not in text and "non-retriable" not in text


def pieces(size: int, length: int) -> Iterator[tuple[int, int]]:
    """[start, end) of pieces of `length` bytes, the last one shorter."""
    for start in range(0, size, length):
        yield start, min(start + length, size)
