"""Says what of a cluster runs, what does not, and which log lines tell why."""

from __future__ import annotations

from typing import Any

from . import addons, control
from .cluster import Cluster
from .common import ClusterError, wait_for
from .kubectl import condition


class Health:
    """The lines of a report and what is wrong."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.troubles: list[str] = []

    def row(self, what: str, state: str, note: str = "") -> None:
        """A line of the table."""
        self.lines.append(f"{what:<34} {state:<12} {note}".rstrip())

    def trouble(self, what: str, state: str, why: str) -> None:
        """A line of the table that is wrong, with the reason below it."""
        self.row(what, state)
        self.troubles.append(f"{what}: {why}")


def examine(cluster: Cluster) -> Health:
    """Look at every machine, component, node and option of a running cluster."""
    health = Health()
    if not cluster.up_now:
        raise ClusterError(f"the cluster {cluster.name} is not up (start it with `python -m tests.cluster up`)")
    told = control.order(cluster.folder, "list")
    memory = cluster.resident_bytes()
    for machine in cluster.machines:
        _machine(cluster, machine, told, memory[machine], health)
    answer = cluster.kubectl.attempt("get", "--raw", "/readyz", "--request-timeout=5s")
    if answer.returncode != 0:
        why = cluster.last_words("control", "kube-apiserver")
        health.trouble("API server", "not ready", f"{answer.stderr.strip()[-200:]} | {why}")
        return health
    health.row("API server", "ready", str(cluster.kubeconfig))
    _nodes(cluster, health)
    for name in addons.installed(cluster):
        _option(cluster, name, health)
    return health


def wait_healthy(cluster: Cluster, what: str, timeout: float = 240) -> None:
    """Wait until nothing is wrong: on a busy machine a node or an operator may be late with its sign of life."""
    troubles: list[str] = []

    def healthy() -> bool:
        troubles[:] = examine(cluster).troubles
        return not troubles

    wait_for(healthy, what=what, timeout=timeout, why=lambda: "; ".join(troubles))


def _machine(cluster: Cluster, machine: str, told: dict[str, Any], memory: int, health: Health) -> None:
    if machine not in told["machines"]:
        health.trouble(f"machine {machine}", "off", "it was killed; bring it back with faults.revive_node")
        return
    health.row(f"machine {machine}", "on", f"{memory / 1e6:.0f} MB resident")
    exits = {entry["name"]: entry["exit"] for entry in told["programs"] if entry["machine"] == machine}
    for name in cluster.components(machine):
        if name not in exits:
            health.trouble(f"  {name}", "not started", "it was never started on this machine")
        elif exits[name] is not None:
            health.trouble(f"  {name}", "ended", f"exit status {exits[name]}; {cluster.last_words(machine, name)}")
        else:
            health.row(f"  {name}", "running")


def _nodes(cluster: Cluster, health: Health) -> None:
    present = {item["metadata"]["name"]: item for item in cluster.kubectl.get("node")}
    for machine in cluster.machines:
        item = present.get(machine)
        if item is not None and condition(item, "Ready"):
            note = "cordoned" if item["spec"].get("unschedulable") else ""
            health.row(f"node {machine}", "Ready", note)
        else:
            health.trouble(f"node {machine}", "not Ready", cluster.last_words(machine, "kubelet"))
    others = [name for name in present if name not in cluster.machines]
    if others:
        health.row(f"fake nodes ({len(others)})", "present", ", ".join(others)[:80])


def _option(cluster: Cluster, name: str, health: Health) -> None:
    option = addons.OPTIONS[name]
    if option.namespace is None:
        health.row(f"option {name}", "installed", option.what)
        return
    api = cluster.kubectl.within(option.namespace)
    waiting = [
        item["metadata"]["name"]
        for item in api.get("deployment")
        if item.get("status", {}).get("readyReplicas", 0) < item["spec"]["replicas"]
    ]
    if not waiting:
        health.row(f"option {name}", "ready", option.what)
        return
    said = api.attempt("logs", f"deployment/{waiting[0]}", "--tail=4").stdout.strip().replace("\n", " | ")
    events = api.attempt("get", "events", "--field-selector=type=Warning", "-o=custom-columns=:message").stdout
    last = " | ".join(line for line in events.splitlines() if line.strip())[-300:]
    health.trouble(f"option {name}", "not ready", said or last or f"the deployment {waiting[0]} has no ready pod")
