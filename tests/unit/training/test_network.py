"""What is said about a network, and what NCCL's log tells of it."""

import os
from pathlib import Path

import pytest

from cclm import distributed
from cclm.training.network import warning_about


@pytest.mark.parametrize(
    ("backend", "network", "speed", "provider", "warning"),
    [
        ("nccl", "AWS Libfabric", 4e10, "efa", ""),
        ("nccl", "Socket", 4e9, "", ""),
        ("nccl", "Socket", 4e9, "efa", "FI_PROVIDER asks for EFA, but NCCL goes over TCP"),
        ("nccl", "IB", 5e8, "", "this is slow"),
        ("gloo", "", 1e8, "efa", ""),
        ("gloo", "", 1e6, "", "this is slow"),
    ],
)
def test_warnings(
    monkeypatch: pytest.MonkeyPatch, backend: str, network: str, speed: float, provider: str, warning: str
) -> None:
    monkeypatch.setenv("FI_PROVIDER", provider)
    found = warning_about(backend, network, speed)
    assert found.startswith(warning) and bool(found) == bool(warning)


def test_the_network_stands_in_the_log_of_nccl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / f"nccl.{os.getpid()}").write_text(
        "host-1:411:411 [0] NCCL INFO NCCL version 2.30.7+cuda13.2\n"
        "host-1:411:502 [0] NCCL INFO Assigned NET plugin Libfabric to comm\n"
        "host-1:411:502 [0] NCCL INFO Using network AWS Libfabric\n"
    )
    monkeypatch.setenv("NCCL_DEBUG_FILE", str(tmp_path / "nccl.%p"))
    monkeypatch.setattr(distributed, "backend", lambda: "nccl")
    assert distributed.network() == "AWS Libfabric"
    monkeypatch.setenv("NCCL_DEBUG_FILE", str(tmp_path / "absent.%p"))
    assert distributed.network() == ""
    monkeypatch.setattr(distributed, "backend", lambda: "gloo")
    assert distributed.network() == ""
