"""Which store a URL means, opened once per process."""

from __future__ import annotations

import os

import fsspec

from cclm.errors import UserError
from cclm.storage.hdfs import Hdfs, open_hdfs
from cclm.storage.objects import Objects, open_gcs, open_s3
from cclm.storage.patience import retried
from cclm.storage.types import Store, split

_opened: dict[tuple[int, str, str], Store] = {}
"""By process, scheme and authority. Stores of a parent process stay referenced and are never used: their threads did
not come along through the fork, and taking such a client down hangs."""


def open_store(url: str) -> tuple[Store, str]:
    """The store of `url`, opened on first use in this process, and the path in it. Raises UserError."""
    scheme, authority, path = split(url)
    host = authority if scheme in ("hdfs", "viewfs") else ""
    key = (os.getpid(), scheme, host)
    store = _opened.get(key)
    if store is None:
        # Opening may ask a server already: gcsfs lets the identity server look at a token.
        store = _opened.setdefault(key, retried(url, lambda: _open(url, scheme, host)))
    if isinstance(store, Hdfs):
        return store, "/" + path.rstrip("/")
    return store, f"{authority}/{path}".rstrip("/")


def reopen() -> None:
    """Open stores anew, with the settings that the environment holds now: fsspec reads it at import only."""
    for key in [key for key in _opened if key[0] == os.getpid()]:
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
        kind = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise UserError(f"{url}: {error}; pip install cclm's dependencies again") from None
    except ValueError as error:
        known = "paths, hdfs://, s3:// and gs://"
        if scheme in fsspec.available_protocols() or scheme in ("hdfs", "s3", "gs"):
            raise UserError(f"{url}: the store's settings are wrong ({error}); correct them") from None
        raise UserError(f"{url}: {scheme}:// is no store that is known here; use {known}") from None
    system = kind(use_listings_cache=False)
    return Objects(system, system)
