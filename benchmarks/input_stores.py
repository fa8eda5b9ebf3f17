"""Where benchmarks keep their files: a folder, or a server that is started for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Place(NamedTuple):
    """An empty folder for files."""

    url: str | None
    environment: dict[str, str]
    """Variables that a process needs to reach it."""


@contextmanager
def local(folder: Path) -> Iterator[Place]:
    """A folder of this machine."""
    yield Place(str(folder), {})


@contextmanager
def started(name: str, folder: Path, cores: set[int] | None = None) -> Iterator[Place]:
    """SeaweedFS (s3) or a NameNode and a DataNode (hdfs), as the tests start them.

    They have room for a few dozen gigabytes.

    Args:
        folder: for the files of the servers.
        cores: those that the servers run on; None: all.
    """
    from tests.stores.hdfs import HdfsStore
    from tests.stores.objects import S3Store

    place = folder / name
    place.mkdir()
    store = S3Store(place, volumes=600) if name == "s3" else HdfsStore(place)
    try:
        store.create()
        if cores is not None:
            for pid in store.pids:
                for thread in Path(f"/proc/{pid}/task").iterdir():  # those that they start later inherit it
                    os.sched_setaffinity(int(thread.name), cores)
        yield Place(store.new_folder(), store.environment)
    finally:
        store.kill()
