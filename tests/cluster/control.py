"""Talks to the supervisor of a running cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import linux
from .common import PROJECT, ClusterError, wait_for


def start_supervisor(folder: Path, owner: int) -> None:
    """Start the process that owns the cluster; it takes everything down when the process `owner` ends."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    with (folder / "logs" / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.supervisor", str(folder), str(owner)],
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C in a terminal reaches the owner, which then asks for an orderly end
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def listening() -> bool:
        if process.poll() is not None:
            raise ClusterError(
                f"the supervisor did not start: {(folder / 'logs' / 'supervisor.log').read_text()[-800:]}"
            )
        return reachable(folder)

    try:
        wait_for(listening, what="the start of the supervisor", timeout=60, every=0.02)
    except BaseException:  # it has no machine yet, and nobody would ever tell it to leave
        process.kill()
        process.wait()
        raise
    # Someone must wait for it, or it stays a zombie after its end for as long as this process lives.
    threading.Thread(target=process.wait, daemon=True).start()


def reachable(folder: Path) -> bool:
    """Whether a supervisor listens for this cluster."""
    try:
        linux.unix_connect(folder / "control.sock").close()
    except OSError:
        return False
    return True


def order(folder: Path, verb: str, /, **arguments: Any) -> dict[str, Any]:
    """Send one order and return the answer."""
    try:
        connection = linux.unix_connect(folder / "control.sock")
    except OSError as error:
        raise ClusterError(
            f"the cluster {folder.name} is not up (start it with `python -m tests.cluster up`)"
        ) from error
    with connection, connection.makefile("rwb") as stream:
        stream.write(json.dumps({"order": verb, **arguments}).encode() + b"\n")
        stream.flush()
        line = stream.readline()
    if not line:
        raise ClusterError(f"the supervisor of cluster {folder.name} ended while it was asked to {verb}")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise ClusterError(f"{verb}: {answer['error']}")
    return answer


def start_program(folder: Path, machine: str, name: str, command: Sequence[str | Path], env: Mapping[str, str]) -> None:
    """Start a program inside a machine of the cluster."""
    order(folder, "start", machine=machine, name=name, command=[str(part) for part in command], env=dict(env))
