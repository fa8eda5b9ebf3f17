"""Names and addresses inside a cluster.

Every cluster has a network of its own that reaches nothing else, so two clusters use the same addresses without
meeting; only the port on the loopback address (see forwarder.py) differs, and the kernel picks that.
"""

from __future__ import annotations

CONTROL = "control"
MOST_NODES = 4
GATEWAY = "10.200.0.1"
API_PORT = 6443
API_SERVER = f"https://{GATEWAY}:{API_PORT}"
SERVICES = "10.202.0.0/16"
FIRST_SERVICE = "10.202.0.1"
BRIDGE = "nodes"
DOMAIN = "cluster.local"


def node_names(count: int) -> list[str]:
    """The worker nodes of a cluster of this size."""
    return [f"node-{number}" for number in range(1, count + 1)]


def index(machine: str) -> int:
    """0 for the control machine, 1 and up for the nodes."""
    return 0 if machine == CONTROL else int(machine.rpartition("-")[2])


def address(machine: str) -> str:
    """A machine's own address."""
    return GATEWAY if machine == CONTROL else f"10.200.0.{10 + index(machine)}"


def pod_range(machine: str) -> str:
    """The addresses of the pods on a machine."""
    return f"10.201.{index(machine)}.0/24"


def link(machine: str) -> str:
    """The control machine's end of the cable to a node."""
    return f"to-{machine}"
