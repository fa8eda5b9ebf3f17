"""A real Prometheus that scrapes programs of this machine, and promtool; `tests/cluster/gobuild.py` builds both."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import gobuild
from tests.cluster.common import ClusterError, wait_for
from tests.stores.server import free_ports


def program(name: str) -> Path:
    """The file of `prometheus` or `promtool`, built if need be. The test is skipped where that cannot be done."""
    if gobuild.binary(name).exists() or shutil.which("go"):
        try:
            return gobuild.build(name)
        except ClusterError as error:
            reason = str(error)
    else:
        reason = f"{name} is built by Go, which this machine does not have"
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    address: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression is now: its series, each with `metric` (labels) and `value`, or `values` of a range.

        Raises:
            OSError: it does not answer, or refuses the expression.
        """
        url = f"http://{self.address}/api/v1/query?query={urllib.parse.quote(expression)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    def ask(self, path: str, **parameters: str | float) -> Any:
        """`data` of an answer of the API.

        Raises:
            OSError: it does not answer, or refuses the expression; the text of the error says why.
        """
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise OSError(f"{parameters}: {error.read().decode()}") from error

    def value(self, expression: str) -> float:
        """What an expression of one series is now."""
        [series] = self.query(expression)
        return float(series["value"][1])


@contextmanager
def serving(folder: Path, *options: str, port: int | None = None) -> Iterator[Prometheus]:
    """A Prometheus with the configuration `prometheus.yaml` and the database `prometheus` of a folder."""
    address = f"127.0.0.1:{port or free_ports(1)[0]}"
    words = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address={address}",
        *options,
    ]
    with (folder / "prometheus.log").open("w") as log:
        server = subprocess.Popen(words, stderr=log, stdout=log)
    try:
        prometheus = Prometheus(address)
        wait_for(
            lambda: _answers(prometheus, "vector(1)"),
            what="an answer", timeout=240, why=(folder / "prometheus.log").read_text,
        )  # fmt: skip
        yield prometheus
    finally:
        server.kill()
        server.wait()


@contextmanager
def scraping(folder: Path, target: str | None = None, every: int = 1) -> Iterator[Prometheus]:
    """A Prometheus that asks a target (HOST:PORT) every so many seconds, and keeps its files in a folder.

    A target of None is the Prometheus itself, which has been asked once.
    """
    (port,) = free_ports(1)
    targets = [target or f"127.0.0.1:{port}"]
    job = {"job_name": "tested", "scrape_interval": f"{every}s", "static_configs": [{"targets": targets}]}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump({"scrape_configs": [job]}))
    with serving(folder, port=port) as prometheus:
        if target is None:
            scraped = lambda: _answers(prometheus, "up == 1")  # noqa: E731
            wait_for(scraped, what="a scrape", timeout=240, why=(folder / "prometheus.log").read_text)
        yield prometheus


def _answers(prometheus: Prometheus, expression: str) -> bool:
    try:
        return bool(prometheus.query(expression))
    except OSError:  # refused, reset, or no answer in time
        return False
