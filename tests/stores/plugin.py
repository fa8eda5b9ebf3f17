"""Gives tests real stores: `hdfs_store`, `s3_store`, `gcs_store`, and `any_store`, which is each of them and a folder.

They start on first use and run for the whole session. A test that kills one starts it again before it ends; the
fixtures see to it that it runs.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .hdfs import HdfsStore
from .objects import GcsStore, S3Store, gcs_environment, s3_environment
from .peer import Peer
from .proxy import Proxy
from .server import StoreError
from .store import RunningStore, environment

# Clients of stores are taken down by garbage collection, in the middle of any test, and some complain of it.
logging.getLogger("asyncio").propagate = False


def _session(kind: type[RunningStore], folder: Path) -> Iterator[RunningStore]:
    try:
        store = kind(folder)
    except StoreError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    try:
        started = time.monotonic()
        store.create()
        print(f"{store.name} started in {time.monotonic() - started:.1f} s")
        with environment(store.environment):
            yield store
    except StoreError as error:
        pytest.fail(str(error), pytrace=False)
    finally:
        store.kill()


@pytest.fixture(scope="session")
def _hdfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStore]:
    yield from _session(HdfsStore, tmp_path_factory.mktemp("hdfs"))


@pytest.fixture(scope="session")
def _s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStore]:
    yield from _session(S3Store, tmp_path_factory.mktemp("s3"))


@pytest.fixture(scope="session")
def _gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStore]:
    yield from _session(GcsStore, tmp_path_factory.mktemp("gcs"))


@pytest.fixture
def hdfs_store(_hdfs: RunningStore) -> Iterator[RunningStore]:
    """HDFS: a NameNode and a DataNode."""
    yield _hdfs
    _hdfs.start()


@pytest.fixture
def s3_store(_s3: RunningStore) -> Iterator[RunningStore]:
    """S3: SeaweedFS."""
    yield _s3
    _s3.start()


@pytest.fixture
def gcs_store(_gcs: RunningStore) -> Iterator[RunningStore]:
    """GCS: fake-gcs-server."""
    yield _gcs
    _gcs.start()


@pytest.fixture
def local_store(tmp_path: Path) -> RunningStore:
    """A folder, as a store that cannot be killed."""
    return RunningStore("local", str(tmp_path / "store"), {})


@pytest.fixture(params=["local", "hdfs", "s3", "gcs"])
def any_store(request: pytest.FixtureRequest) -> RunningStore:
    """Each store in turn."""
    return request.getfixturevalue(f"{request.param}_store")


@pytest.fixture(params=["hdfs", "s3", "gcs"])
def remote_store(request: pytest.FixtureRequest) -> RunningStore:
    """Each store that is not a folder."""
    return request.getfixturevalue(f"{request.param}_store")


@pytest.fixture
def s3_proxy(s3_store) -> Iterator[Proxy]:
    """A proxy before S3 through which this process and its children reach it during the test."""
    with Proxy(s3_store.port) as proxy, environment(s3_environment(proxy.url)):
        yield proxy


@pytest.fixture
def gcs_proxy(gcs_store) -> Iterator[Proxy]:
    """A proxy before GCS through which this process and its children reach it during the test."""
    with Proxy(gcs_store.port) as proxy, environment(gcs_environment(proxy.url)):
        yield proxy


@pytest.fixture
def peer() -> Iterator[Peer]:
    """Another process that uses the adapter; asked for after a store, so that it can reach it."""
    process = Peer()
    yield process
    process.kill()
