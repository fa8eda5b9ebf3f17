"""Where the nodes of a job listen. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cclm.errors import UserError

_NUMBERED_HOST = re.compile(r"(.*?-)0((?:\..*)?)")
"""Name of the first pod of a job, such as `job-worker-0` or `job-worker-0.namespace.svc`."""


@dataclass(frozen=True)
class Address:
    """Where a node listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def addresses_of(endpoint: str, max_nodes: int) -> list[Address]:
    """Where the nodes of a job listen, by index, if the endpoint is that of node 0, such as `job-worker-0:23456`.

    Returns:
        An empty list if the endpoint's name does not end in a number.
    """
    host, _, port = endpoint.rpartition(":")
    match = _NUMBERED_HOST.fullmatch(host)
    if match is None or not port.isdigit():
        return []
    return [Address(f"{match[1]}{index}{match[2]}", int(port)) for index in range(max_nodes)]


def parse_addresses(text: str) -> list[Address]:
    """`HOST:PORT|HOST:PORT|...`, by index. Raises UserError."""
    found = []
    for part in text.split("|"):
        host, _, port = part.strip().rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f"--rdzv-conf peers: {part!r} is no HOST:PORT")
        found.append(Address(host, int(port)))
    return found


def index_of_host(name: str, addresses: list[Address]) -> int | None:
    """The index of the node whose host is called `name`, as a pod's hostname is; None if none is."""
    return next((index for index, each in enumerate(addresses) if each.host.partition(".")[0] == name), None)
