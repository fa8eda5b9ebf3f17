"""What nodes send each other: lines of JSON over TCP. No torch."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cclm.launch.meeting import Node, Report, Round, Standing, Status, Trouble, View
from cclm.launch.meeting_addresses import Address

_MAX_LINE = 2**22
"""Bytes. A report may hold a traceback."""


class Line:
    """A connection over which lines of JSON go."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message. Raises OSError if the connection has ended."""
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """The next message; None at the end of the connection. Raises OSError, or ValueError for what is no message."""
        line = self._file.readline(_MAX_LINE)
        if not line.endswith(b"\n"):
            return None
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("a message is not an object")
        return message

    def wait_at_most(self, seconds: float) -> None:
        """Let each later wait for the other end raise TimeoutError after so long."""
        self._connection.settimeout(seconds)

    def peer_host(self) -> str:
        """The numeric address at the other end."""
        return str(self._connection.getpeername()[0])

    def close(self) -> None:
        """End the connection."""
        for part in (self._file, self._connection):
            with contextlib.suppress(OSError):
                part.close()


def connect(address: Address, timeout: float) -> Line:
    """A connection to a node; each wait on it ends after `timeout` seconds. Raises OSError."""
    connection = socket.create_connection((address.host, address.port), timeout=timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Line(connection)


def standing_from(values: Mapping[str, Any]) -> Standing:
    """A standing from JSON. Raises KeyError, TypeError or ValueError for anything else."""
    return Standing(bool(values["is_running"]), int(values["size"]), _node_from(values["host"]))


def _node_from(values: Mapping[str, Any]) -> Node:
    return Node(int(values["index"]), str(values["token"]))


def _trouble_from(values: Mapping[str, Any] | None) -> Trouble | None:
    return None if values is None else Trouble(values["cause"], str(values["reason"]))


def report_to(report: Report) -> dict[str, Any]:
    """A report as JSON has it."""
    return {**asdict(report), "status": report.status.value}


def report_from(values: Mapping[str, Any]) -> Report:
    """A report from JSON. Raises KeyError, TypeError or ValueError for anything else."""
    return Report(
        node=_node_from(values["node"]),
        status=Status(values["status"]),
        round_number=int(values["round_number"]),
        processes=int(values["processes"]),
        former=tuple(map(str, values["former"])),
        lost=tuple(map(str, values["lost"])),
        trouble=_trouble_from(values["trouble"]),
        verdict=values["verdict"],
    )


def view_from(values: Mapping[str, Any]) -> View:
    """A view from JSON. Raises KeyError, TypeError or ValueError for anything else."""
    found = values["round"]
    members = () if found is None else tuple(map(_node_from, found["members"]))
    return View(
        round=None if found is None else Round(int(found["number"]), members, int(found["master_port"])),
        trouble=_trouble_from(values["trouble"]),
        is_node_joining=bool(values["is_node_joining"]),
        has_node_left=bool(values["has_node_left"]),
        is_finished=bool(values["is_finished"]),
        verdict=values["verdict"],
        is_dissolved=bool(values["is_dissolved"]),
        is_host_leaving=bool(values["is_host_leaving"]),
        indexes=tuple(map(int, values["indexes"])),
    )
