"""What tests see of a store: where it is, what reaches it, and how it is broken."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver

from cclm import storage

SHORT_TIMEOUTS = {
    "FSSPEC_S3": '{"config_kwargs": {"read_timeout": 1}}',
    "FSSPEC_GCS": '{"requests_timeout": 1}',
    "FSSPEC_HDFS": '{"dfs.client.socket-timeout": 1000}',
}
"""For `environment`: a store that is silent for a second is asked again; HDFS after three and a minute of its own."""


class RunningStore:
    """A store that runs; `kill` and `start` it as you like, its data and address stay."""

    def __init__(self, name: str, url: str, environment: dict[str, str]) -> None:
        self.name = name
        """local, hdfs, s3 or gcs."""
        self.url = url
        """A folder on it."""
        self.environment = environment
        """What a process needs in its environment to reach it; set for the whole test session."""

    def new_folder(self) -> str:
        """A URL below which nothing is yet."""
        return storage.join(self.url, uuid.uuid4().hex[:12])

    def create(self) -> None:
        """Start for the first time."""
        self.start()

    def start(self) -> None:
        """Start again, and return when it answers."""

    def kill(self) -> None:
        """SIGKILL to every process of it."""


@contextmanager
def environment(settings: dict[str, str]) -> Iterator[None]:
    """Set environment variables for a while. Stores of this process and loader processes that it starts use them."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    _start_anew()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _start_anew()


def _start_anew() -> None:
    """Have the environment read again: the forkserver's processes have the one that it was started with."""
    storage.reopen()
    forkserver._forkserver._stop()
