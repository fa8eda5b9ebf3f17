"""What all tests share."""

import os
from collections import Counter

import pytest

# Tests, and the programs that they start, run beside each other. Threads of torch that wait for one another burn their
# core otherwise, and training takes four times as long. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

pytest_plugins = ["tests.cluster.plugin", "tests.stores.plugin"]

_STORES = {"hdfs_store", "s3_store", "gcs_store", "any_store", "remote_store"}
_left_out: Counter[str] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kill-seeds", type=int, default=1, metavar="N", help="seeds of the test that kills ranks at random moments"
    )


def _needs(item: pytest.Item) -> str:
    """What a test needs beyond pip and a few seconds."""
    if item.get_closest_marker("cluster"):
        return "on a Kubernetes cluster"
    if _STORES & set(getattr(item, "fixturenames", ())):
        return "on real stores (HDFS, S3, GCS)"
    return "of whole programs"


def pytest_deselected(items: list[pytest.Item]) -> None:
    _left_out.update(_needs(item) for item in items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Whoever runs the fast tests learns how many more there are."""
    if _left_out and "not slow" in config.option.markexpr:
        counts = ", ".join(f"{number} {what}" for what, number in sorted(_left_out.items()))
        terminalreporter.write_line(f"{_left_out.total()} tests were left out: {counts}")
        terminalreporter.write_line("sh quickstart.sh test all    runs them all")
