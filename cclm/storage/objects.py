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
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import fsspec

from cclm.storage.patience import Incomplete, MissingBucket, Verdict, judge
from cclm.storage.types import Entry, Found, each

log = logging.getLogger(__name__)

_PART, _PARTS_AT_ONCE = 16 << 20, 4  # bytes of one part of an upload; what is in memory at once is the product
_PART_TRIES = 4
_SILENCE = 15.0  # s without a byte from GCS before a request has failed; s3fs' default is the same
_WRITER = "cclm-writer"  # metadata of files that were written exclusively


class Objects:
    """Any fsspec file system: objects are put whole, and are there when the put has ended."""

    def __init__(self, system: Any, uploader: Any) -> None:
        """`uploader` is the same store, for large files: it tries each part again by itself."""
        self._system, self._uploader = system, uploader
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
        if not new:
            self._put(path, lambda: self._system.pipe_file(path, data))
            return
        if self._refuses_to_replace is False and self._system.exists(path):
            raise FileExistsError(path)
        try:
            self._put(path, lambda: self._create(path, data, token))
        except Exception as error:
            # What is there may be what an earlier try put, if only its answer was lost.
            if judge(error) is not Verdict.EXISTS or self._written_by(path) != token:
                raise
        if self._refuses_to_replace is None:
            self._try_condition(path, data, token)

    def _try_condition(self, path: str, data: bytes, token: str) -> None:
        """Put what was just put again, on condition that it is not there: shows whether the store heeds conditions."""
        try:
            self._create(path, data, token)
            self._refuses_to_replace = False
            log.warning("the store of %s replaces files although told not to: two writers of one file both win", path)
        except Exception as error:
            if judge(error) is not Verdict.OUTAGE:
                self._refuses_to_replace = True

    def _create(self, path: str, data: bytes, token: str) -> None:
        """Put on condition that nothing is there."""
        self._system.pipe_file(path, data, mode="create")

    def _written_by(self, path: str) -> str | None:
        """The token of the writer of a file, where stores keep one."""
        return None

    def upload(self, local: str, path: str, token: str) -> None:
        self._put(path, lambda: self._uploader.put_file(local, path, **self._put_options()))
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
        each(self.remove, self._inside(path))

    def _inside(self, path: str) -> list[str]:
        """Every file below a folder."""
        self._system.invalidate_cache()
        try:
            return list(self._system.find(path.rstrip("/") + "/"))
        except FileNotFoundError:
            return []

    def _put_options(self) -> dict[str, Any]:
        return {}

    def _check_bucket(self, path: str, error: BaseException) -> None:
        """Raise MissingBucket if the bucket is what is missing, where there are buckets."""


class _Buckets(Objects, ABC):
    """What S3 and GCS have in common."""

    def __init__(self, system: Any, uploader: Any) -> None:
        super().__init__(system, uploader)
        self._seen_buckets: set[str] = set()

    def upload(self, local: str, path: str, token: str) -> None:
        try:
            super().upload(local, path, token)
        except MissingBucket:
            raise
        except Exception as error:
            if judge(error) is Verdict.ABSENT and os.path.exists(local):
                raise Incomplete(f"the store no longer knows the upload of {path}") from error  # to be begun anew
            raise

    def _check_bucket(self, path: str, error: BaseException) -> None:
        bucket = path.split("/")[0]
        if bucket in self._seen_buckets:
            return
        try:
            self._ask_for_bucket(bucket)
        except Exception as answer:
            if judge(answer) is Verdict.ABSENT:
                raise MissingBucket(f"the bucket {bucket} does not exist; create it or correct the URL") from error
            if judge(answer) is Verdict.OUTAGE:
                raise
        self._seen_buckets.add(bucket)

    @abstractmethod
    def _ask_for_bucket(self, bucket: str) -> None:
        """Raise what the store answers if there is no such bucket."""


class S3(_Buckets):
    """S3 and what is compatible with it."""

    def _create(self, path: str, data: bytes, token: str) -> None:
        self._system.pipe_file(path, data, mode="create", Metadata={_WRITER: token})

    def _written_by(self, path: str) -> str | None:
        return self._system.metadata(path).get(_WRITER)

    def _put_options(self) -> dict[str, Any]:
        return {"chunksize": _PART, "max_concurrency": _PARTS_AT_ONCE}

    def remove_folder(self, path: str) -> None:
        files = self._inside(path)
        super().remove_folder(path)
        # Objects that stand for folders: people make them, and some stores keep a folder that was once used.
        folders = {path, *(folder for file in files for folder in _folders_above(file, path))}
        for folder in sorted(folders, key=len, reverse=True):
            bucket, _, key = folder.partition("/")
            self._system.call_s3("delete_object", Bucket=bucket, Key=key + "/")

    def _ask_for_bucket(self, bucket: str) -> None:
        self._system.call_s3("head_bucket", Bucket=bucket)


class Gcs(_Buckets):
    """Google Cloud Storage."""

    def _create(self, path: str, data: bytes, token: str) -> None:
        self._system.pipe_file(path, data, mode="create", metadata={_WRITER: token})

    def _written_by(self, path: str) -> str | None:
        return (self._system.info(path).get("metadata") or {}).get(_WRITER)

    def _put_options(self) -> dict[str, Any]:
        return {"chunksize": _PART}

    def _ask_for_bucket(self, bucket: str) -> None:
        self._system.call("GET", "b/{}", bucket, json_out=True)


def _folders_above(file: str, top: str) -> Iterator[str]:
    """The folders between `top` and a file below it."""
    folder = posixpath.dirname(file)
    while len(folder) > len(top):
        yield folder
        folder = posixpath.dirname(folder)


def open_s3() -> S3:
    """S3 with the options of fsspec's settings for `s3`. Raises ImportError."""
    import s3fs

    options = dict(fsspec.config.conf.get("s3", {}))
    options["config_kwargs"] = {"retries": {"total_max_attempts": 1}, **options.get("config_kwargs", {})}

    def system(tries: int) -> s3fs.S3FileSystem:
        made = s3fs.S3FileSystem(**options, use_listings_cache=False, skip_instance_cache=True)
        made.retries = tries
        return made

    return S3(system(1), system(_PART_TRIES))


def open_gcs() -> Gcs:
    """GCS with the options of fsspec's settings for `gcs` (or `gs`). Raises ImportError, ValueError."""
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import aiohttp
    from gcsfs.core import GCSFileSystem
    from gcsfs.retry import retry_request

    options = {**fsspec.config.conf.get("gs", {}), **fsspec.config.conf.get("gcs", {})}
    token = options.get("token")
    if isinstance(token, str) and token.startswith(("/", "~", ".")) and not os.path.exists(token):
        # gcsfs would take the path for a token, and ask Google about it.
        raise ValueError("FSSPEC_GS_TOKEN, or FSSPEC_GCS_TOKEN, names a file that does not exist")
    silence = float(options.get("requests_timeout", _SILENCE))
    options["requests_timeout"] = aiohttp.ClientTimeout(total=None, sock_connect=min(5, silence), sock_read=silence)
    logging.getLogger("gcsfs").addFilter(_is_no_retry)

    def system(tries: int) -> GCSFileSystem:
        made = GCSFileSystem(**options, use_listings_cache=False, skip_instance_cache=True)
        once = GCSFileSystem._request.__wrapped__
        made._request = functools.partial(retry_request(retries=tries)(once), made)
        return made

    return Gcs(system(1), system(_PART_TRIES))


def _is_no_retry(record: logging.LogRecord) -> bool:
    """False for gcsfs' tracebacks of failed tries: what comes of them is told by an exception."""
    text = record.getMessage()
    return "out of retries" not in text and "non-retriable" not in text
