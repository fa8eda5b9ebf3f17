"""S3 by s3fs, GCS by gcsfs, and what else fsspec opens: objects are put whole.

Traps that the code below goes around, all seen on real servers:
- s3fs: positional start and end mean something else; cat_ranges returns exceptions as data; listings are cached; a file
  object publishes what it has when the writer fails, so whole objects are put instead; a large put holds 500 MB;
- gcsfs: its default class asks another service for the kind of bucket first, which an emulator answers after 60 s; its
  retries cannot be set and log tracebacks; a 403 is a plain OSError;
- rename is copy and delete, so nothing here depends on one; transactions cover half of fsspec's calls;
- both say 404 for an absent object and an absent bucket;
- some S3-compatible stores ignore the condition of an exclusive write, and some keep folders when they are empty.
"""

from __future__ import annotations

import functools
import logging
import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import fsspec

from cclm.storage.patience import Incomplete, MissingBucket, Verdict, judge
from cclm.storage.types import Entry, Found, each

log = logging.getLogger(__name__)

_PART, _PARTS_AT_ONCE = 16 << 20, 4  # bytes of one part of an upload; what is in memory at once is the product


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
        return each(lambda bounds: self._read(path, *bounds), ranges)

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
        each(self.remove, inside)
        if hasattr(self._system, "call_s3"):  # objects that stand for folders; some stores make them by themselves
            folders = {path, *(folder for file in inside for folder in _folders_above(file, path))}
            for folder in sorted(folders, key=len, reverse=True):
                bucket, _, key = folder.partition("/")
                self._system.call_s3("delete_object", Bucket=bucket, Key=key + "/")

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


def _folders_above(file: str, top: str) -> Iterator[str]:
    """The folders between `top` and a file below it."""
    folder = posixpath.dirname(file)
    while len(folder) > len(top):
        yield folder
        folder = posixpath.dirname(folder)


def open_s3() -> Objects:
    import s3fs

    options = dict(fsspec.config.conf.get("s3", {}))
    config = {"retries": {"total_max_attempts": 1}, **options.get("config_kwargs", {})}
    system = s3fs.S3FileSystem(
        **{**options, "config_kwargs": config}, use_listings_cache=False, skip_instance_cache=True
    )
    system.retries = 3  # half a second for one part of a large upload; outages are waited for above
    return Objects(system, has_buckets=True, put_options={"chunksize": _PART, "max_concurrency": _PARTS_AT_ONCE})


def open_gcs() -> Objects:
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
