"""Places of the files of benchmarks: a folder, and servers started for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def local(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    yield str(folder), {}


@contextmanager
def started(name: str, folder: Path, cores: set[int] | None = None) -> Iterator[tuple[str, dict[str, str]]]:
    """SeaweedFS or a NameNode and a DataNode, as the tests start them, with room for a few dozen gigabytes.

    Args:
        cores: they stay on these; None: anywhere.
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
        yield store.new_folder(), store.environment
    finally:
        store.kill()
