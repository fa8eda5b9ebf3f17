"""Which store a URL means. Each store is opened once per process."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

import fsspec

from cclm.errors import UserError
from cclm.storage.hdfs import Hdfs, open_hdfs
from cclm.storage.interface import Store, split_url
from cclm.storage.objects import Objects, open_gcs, open_s3
from cclm.storage.patience import retried

_VERSION = "?versionId="
"""s3fs cuts the path off here, wherever it stands, and takes the newest object of what is left."""


class StorePath(NamedTuple):
    """A store, and a path as its calls take it."""

    store: Store
    path: str


class _StoreKey(NamedTuple):
    process: int
    scheme: str
    host: str
    """NameNode of HDFS; "" for object stores, where one client serves all buckets."""


_opened: dict[_StoreKey, Store] = {}
"""A forked process keeps the references to its parent's stores, but never uses them: their threads did not come along
through the fork, and closing such a client hangs."""


def open_store(url: str) -> StorePath:
    """The store of `url`, opened on first use in this process, and the path in it. Raises UserError."""
    scheme, authority, path = split_url(url)
    if scheme in ("s3", "s3a") and _VERSION in path:
        raise UserError(f"{url}: versions of objects are not supported; leave out ?versionId= to mean the newest")
    key = _StoreKey(os.getpid(), scheme, authority if scheme in ("hdfs", "viewfs") else "")
    store = _opened.get(key)
    if store is None:
        # Opening may already ask a server: gcsfs sends a token to the identity server. But s3fs connects only with the
        # first request, so a store that is open need not have answered.
        store = retried(url, lambda: _open(url, key.scheme, key.host), is_answer=lambda _store: False)
        store = _opened.setdefault(key, store)
    if isinstance(store, Hdfs):
        # As in Hadoop's tools, several slashes are one. In object stores they would be another key.
        return StorePath(store, "/" + re.sub("/+", "/", path).strip("/"))
    return StorePath(store, f"{authority}/{path}".rstrip("/"))


def reopen() -> None:
    """Open stores anew, with the settings that the environment holds now. fsspec itself reads them at import only."""
    for key in [key for key in _opened if key.process == os.getpid()]:
        del _opened[key]
    fsspec.config.conf.clear()
    fsspec.config.set_conf_files(fsspec.config.conf_dir, fsspec.config.conf)
    fsspec.config.set_conf_env(fsspec.config.conf)


def _open(url: str, scheme: str, host: str) -> Store:
    try:
        if scheme in ("hdfs", "viewfs"):
            return open_hdfs(scheme, host)
        if scheme in ("s3", "s3a"):
            return open_s3()
        if scheme in ("gs", "gcs"):
            return open_gcs()
        filesystem_class = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise UserError(f"{url}: {error}; pip install cclm's dependencies again") from None
    except ValueError as error:
        known = "paths, hdfs://, s3:// and gs://"
        if scheme in fsspec.available_protocols() or scheme in ("hdfs", "s3", "gs"):
            raise UserError(f"{url}: the store's settings are wrong ({error}); correct them") from None
        raise UserError(f"{url}: {scheme}:// is no store that is known here; use {known}") from None
    filesystem = filesystem_class(use_listings_cache=False)
    return Objects(filesystem, filesystem)
