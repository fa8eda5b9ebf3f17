"""S3 by s3fs, GCS by gcsfs, and any other file system of fsspec. Objects are put whole.

The code below works around these faults, all seen with real servers:
- s3fs: start and end have another meaning as positional arguments. `cat_ranges` returns exceptions as data. Listings
  are cached. A file object publishes what it has when its writer fails, so whole objects are put instead. A large put
  holds 500 MB.
- gcsfs: its default class first asks another service for the kind of bucket, which takes 60 s with an emulator. The
  number of its retries cannot be set, and they log tracebacks. A 403 is a plain OSError.
- A rename is a copy and a deletion, so nothing here depends on one. Transactions cover only half of fsspec's calls.
- Both answer 404 for an absent object and for an absent bucket.
- Some S3-compatible stores ignore the condition of an exclusive write. Some keep folders that have become empty.
"""

from __future__ import annotations

import functools
import logging
import os
import posixpath
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import fsspec

from cclm.storage.interface import Entry, FileInfo, map_threaded
from cclm.storage.patience import ErrorKind, IncompleteTransfer, MissingBucket, classify

log = logging.getLogger(__name__)

_PART, _PARTS_AT_ONCE = 16 << 20, 4  # bytes of one part of an upload; their product is in memory at once
_PART_TRIES = 4
_READ_TIMEOUT = 15.0  # s without a byte from GCS after which a request has failed; the same as the default of s3fs
_WRITER = "cclm-writer"  # metadata key of files that were written exclusively: the token of their write


class Objects:
    """Any fsspec file system. Objects are put whole, and are visible when the put has ended."""

    def __init__(self, system: Any, uploader: Any) -> None:
        """`system` is an fsspec file system. `uploader` is the same store, but retries the parts of large files."""
        self._system, self._uploader = system, uploader
        self._honours_conditions: bool | None = None  # unknown until the first exclusive write

    def find(self, path: str) -> FileInfo:
        self._system.invalidate_cache()
        try:
            info = self._system.info(path)
        except FileNotFoundError as error:
            self._check_bucket(path, error)
            raise
        tag = info.get("ETag") or info.get("generation") or info.get("mtime") or info.get("LastModified")
        size = int(info.get("size") or 0)
        changed = info.get("mtime") or info.get("LastModified") or info.get("created")
        return FileInfo(
            size,
            None if tag is None else str(tag).strip('"'),
            info["type"] == "directory",
            changed.timestamp() if isinstance(changed, datetime) else None,
        )

    def entries(self, path: str) -> list[Entry]:
        self._system.invalidate_cache()
        try:
            infos = self._system.ls(path, detail=True)
        except FileNotFoundError as error:
            self._check_bucket(path, error)
            return []
        names = [(info["name"].rstrip("/").rsplit("/", 1)[-1], info) for info in infos]
        # A listing may hold the placeholder of the folder, or the object `path` itself. Neither is in the folder.
        return [
            Entry(name, int(info.get("size") or 0), info["type"] == "directory")
            for name, info in names
            if info["name"].strip("/") != path.strip("/")
        ]

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        if len(ranges) == 1:
            return [self._read(path, *ranges[0])]
        return map_threaded(lambda bounds: self._read(path, *bounds), ranges)

    def _read(self, path: str, start: int, end: int) -> bytes:
        if start >= end:
            return b""
        try:
            return bytes(self._system.cat_file(path, start=start, end=end))
        except Exception as error:
            kind = classify(error)
            if kind is ErrorKind.PAST_END:
                return b""
            if kind is ErrorKind.ABSENT:
                self._check_bucket(path, error)
            raise

    def write(self, path: str, data: bytes, new: bool, token: str) -> None:
        if not new:
            self._put(path, lambda: self._system.pipe_file(path, data))
            return
        if self._honours_conditions is False and self._system.exists(path):
            raise FileExistsError(path)
        try:
            self._put(path, lambda: self._create(path, data, token))
        except Exception as error:
            # An earlier try of this write may have put the file, and only its answer was lost.
            if classify(error) is not ErrorKind.EXISTS or self._written_by(path) != token:
                raise
        if self._honours_conditions is None:
            self._probe_conditions(path, data, token)

    def _probe_conditions(self, path: str, data: bytes, token: str) -> None:
        """Put the same file again on condition that it is absent, to learn whether the store honours conditions."""
        try:
            self._create(path, data, token)
            self._honours_conditions = False
            log.warning("the store of %s replaces files although told not to: two writers of one file both win", path)
        except Exception as error:
            if classify(error) is not ErrorKind.OUTAGE:
                self._honours_conditions = True

    def _create(self, path: str, data: bytes, token: str) -> None:
        """Put on condition that the object is absent."""
        self._system.pipe_file(path, data, mode="create")

    def _written_by(self, path: str) -> str | None:
        """The token of the write that made a file, if the store keeps one."""
        return None

    def upload(self, local: str, path: str, token: str) -> None:
        self._put(path, lambda: self._uploader.put_file(local, path, **self._put_options()))
        size = os.path.getsize(local)
        if (stored := self.find(path).size) != size:
            raise IncompleteTransfer(f"{path} holds {stored} bytes after an upload of {size}")

    def _put(self, path: str, put: Callable[[], Any]) -> None:
        try:
            put()
        except Exception as error:
            if classify(error) is ErrorKind.ABSENT:
                self._check_bucket(path, error)
            raise

    def remove(self, path: str) -> None:
        try:
            self._system.rm_file(path)
        except Exception as error:
            if classify(error) is not ErrorKind.ABSENT:
                raise

    def remove_folder(self, path: str) -> None:
        map_threaded(self.remove, self._inside(path))

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
        """Raise MissingBucket if the store has buckets and that of `path` is missing."""


class _Buckets(Objects, ABC):
    """What S3 and GCS have in common."""

    def __init__(self, system: Any, uploader: Any) -> None:
        super().__init__(system, uploader)
        self._known_buckets: set[str] = set()

    def upload(self, local: str, path: str, token: str) -> None:
        try:
            super().upload(local, path, token)
        except MissingBucket:
            raise
        except Exception as error:
            if classify(error) is ErrorKind.ABSENT and os.path.exists(local):
                raise IncompleteTransfer(f"the store no longer knows the upload of {path}") from error  # and is retried
            raise

    def _check_bucket(self, path: str, error: BaseException) -> None:
        bucket = path.split("/")[0]
        if bucket in self._known_buckets:
            return
        try:
            self._head_bucket(bucket)
        except Exception as bucket_error:
            if classify(bucket_error) is ErrorKind.ABSENT:
                raise MissingBucket(f"the bucket {bucket} does not exist; create it or correct the URL") from error
            if classify(bucket_error) is ErrorKind.OUTAGE:
                raise
        self._known_buckets.add(bucket)

    @abstractmethod
    def _head_bucket(self, bucket: str) -> None:
        """Ask for a bucket. Raises the store's error if there is none."""


class S3(_Buckets):
    """S3 and compatible stores."""

    def _create(self, path: str, data: bytes, token: str) -> None:
        self._system.pipe_file(path, data, mode="create", Metadata={_WRITER: token})

    def _written_by(self, path: str) -> str | None:
        token: str | None = self._system.metadata(path).get(_WRITER)
        return token

    def _put_options(self) -> dict[str, Any]:
        return {"chunksize": _PART, "max_concurrency": _PARTS_AT_ONCE}

    def remove_folder(self, path: str) -> None:
        files = self._inside(path)
        super().remove_folder(path)
        # Some objects stand for folders. People make them, and some stores keep a folder that once held something.
        folders = {path, *(folder for file in files for folder in _folders_above(file, path))}
        for folder in sorted(folders, key=len, reverse=True):
            bucket, _, key = folder.partition("/")
            self._system.call_s3("delete_object", Bucket=bucket, Key=key + "/")

    def _head_bucket(self, bucket: str) -> None:
        self._system.call_s3("head_bucket", Bucket=bucket)


class Gcs(_Buckets):
    """Google Cloud Storage."""

    def _create(self, path: str, data: bytes, token: str) -> None:
        self._system.pipe_file(path, data, mode="create", metadata={_WRITER: token})

    def _written_by(self, path: str) -> str | None:
        token: str | None = (self._system.info(path).get("metadata") or {}).get(_WRITER)
        return token

    def _put_options(self) -> dict[str, Any]:
        return {"chunksize": _PART}

    def _head_bucket(self, bucket: str) -> None:
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

    def filesystem(tries: int) -> s3fs.S3FileSystem:
        system = s3fs.S3FileSystem(**options, use_listings_cache=False, skip_instance_cache=True)
        system.retries = tries
        return system

    return S3(filesystem(1), filesystem(_PART_TRIES))


def open_gcs() -> Gcs:
    """GCS with the options of fsspec's settings for `gcs` (or `gs`). Raises ImportError, ValueError."""
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import aiohttp
    from gcsfs.core import GCSFileSystem
    from gcsfs.retry import retry_request

    options = {**fsspec.config.conf.get("gs", {}), **fsspec.config.conf.get("gcs", {})}
    token = options.get("token")
    if isinstance(token, str) and token.startswith(("/", "~", ".")) and not os.path.exists(token):
        # gcsfs would take the path for a token and send it to Google.
        raise ValueError("FSSPEC_GS_TOKEN, or FSSPEC_GCS_TOKEN, names a file that does not exist")
    seconds = float(options.get("requests_timeout", _READ_TIMEOUT))
    options["requests_timeout"] = aiohttp.ClientTimeout(total=None, sock_connect=min(5, seconds), sock_read=seconds)
    logging.getLogger("gcsfs").addFilter(_is_no_retry)

    def filesystem(tries: int) -> GCSFileSystem:
        system = GCSFileSystem(**options, use_listings_cache=False, skip_instance_cache=True)
        once = GCSFileSystem._request.__wrapped__
        system._request = functools.partial(retry_request(retries=tries)(once), system)
        return system

    return Gcs(filesystem(1), filesystem(_PART_TRIES))


def _is_no_retry(record: logging.LogRecord) -> bool:
    """A log filter that drops gcsfs' tracebacks of failed tries. The exception reports what came of them."""
    text = record.getMessage()
    return "out of retries" not in text and "non-retriable" not in text
