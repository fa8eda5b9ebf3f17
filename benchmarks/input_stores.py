"""Places of the files of `benchmarks/input.py`: a folder, and servers started for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def local(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    yield str(folder), {}


@contextmanager
def started(name: str, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """SeaweedFS or a NameNode and a DataNode, as the tests start them."""
    from tests.stores.hdfs import HdfsStore
    from tests.stores.objects import S3Store

    place = folder / name
    place.mkdir()
    store = {"s3": S3Store, "hdfs": HdfsStore}[name](place)
    try:
        store.create()
        yield store.new_folder(), store.environment
    finally:
        store.kill()
