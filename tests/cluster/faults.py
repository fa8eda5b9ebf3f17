"""What can go wrong on a cluster, as plain functions: each does one kind of damage, or undoes it.

Functions that take a `Cluster` need one that this package owns; those that take a `Kubectl` (within the
namespace of the pod) work on any cluster.
"""

from __future__ import annotations

import json
import subprocess
import time
from functools import partial
from typing import Any

from . import addons, control, controlplane, layout, node
from .cluster import Cluster
from .common import ClusterError, wait_for
from .kubectl import Kubectl

# --- nodes ----------------------------------------------------------------------------------------------------


def kill_node(cluster: Cluster, machine: str) -> None:
    """Cut a node's power: its kubelet, its containerd and every container die at once, and its link is gone."""
    _worker(cluster, machine)
    cluster.kill_machine(machine)


def revive_node(cluster: Cluster, machine: str) -> None:
    """Power a killed node on and wait until it is Ready; its disk is as it was."""
    _worker(cluster, machine)
    started = time.time()
    cluster.start_node(machine)
    cluster.wait_for_node(machine, since=started)


def cut_node(cluster: Cluster, machine: str) -> None:
    """Pull a node's cable: everything on it goes on running, and reaches nobody."""
    _cable(cluster, machine, "down")


def rejoin_node(cluster: Cluster, machine: str) -> None:
    """Plug a node's cable in again."""
    _cable(cluster, machine, "up")


def kill_kubelet(cluster: Cluster, machine: str) -> None:
    """Kill a node's kubelet: the cluster takes the node for dead, and its pods live on and reach everybody."""
    _worker(cluster, machine)
    cluster.stop_program(machine, "kubelet")


def cordon_node(api: Kubectl, machine: str) -> None:
    """Let no further pod be scheduled onto a node."""
    api("cordon", machine)


def uncordon_node(api: Kubectl, machine: str) -> None:
    """Let pods be scheduled onto a node again."""
    api("uncordon", machine)


def drain_node(api: Kubectl, machine: str, timeout: float = 120) -> None:
    """Cordon a node and evict its pods, as before maintenance."""
    api(
        "drain",
        machine,
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--force",
        f"--timeout={timeout:g}s",
        timeout=timeout + 10,
    )


def _worker(cluster: Cluster, machine: str) -> None:
    if machine not in cluster.node_names:
        raise ClusterError(
            f"{machine} is no worker node of cluster {cluster.name}; there are {', '.join(cluster.node_names)}"
        )


def _cable(cluster: Cluster, machine: str, state: str) -> None:
    _worker(cluster, machine)
    hub = cluster.pid(layout.CONTROL)
    node.in_network(hub, "ip", "link", "set", layout.link(machine), state, what=f"set the link of {machine} {state}")
    if state == "up":
        # The kernel drops a route when its link goes down and does not put it back.
        route = ("ip", "route", "replace", layout.pod_range(machine), "via", layout.address(machine))
        node.in_network(hub, *route, what=f"route to {machine}")


# --- links ----------------------------------------------------------------------------------------------------


def slow_link(cluster: Cluster, machine: str, kilobits: int) -> None:
    """Let a node send and receive no faster than this many kilobits a second."""
    _worker(cluster, machine)
    for pid, device in _ends(cluster, machine):
        shape = ["tbf", "rate", f"{kilobits}kbit", "burst", "16kb", "latency", "200ms"]
        node.in_network(pid, "tc", "qdisc", "replace", "dev", device, "root", *shape, what="slow a link down")


def lossy_link(cluster: Cluster, machine: str, percent: float) -> None:
    """Drop this share of the packets that a node sends and receives, by chance and each for itself."""
    _worker(cluster, machine)
    steady_link(cluster, machine)
    for table, chain, option in (("raw", "PREROUTING", "-i"), ("mangle", "POSTROUTING", "-o")):
        rule = [
            option,
            "eth0",
            "-m",
            "statistic",
            "--mode",
            "random",
            "--probability",
            f"{percent / 100:.4f}",
            "-j",
            "DROP",
        ]
        _iptables(cluster, machine, "-t", table, "-I", chain, *rule)


def delayed_link(cluster: Cluster, machine: str, milliseconds: int) -> None:
    """Delay every packet that a node sends and receives; needs a kernel with netem."""
    _worker(cluster, machine)
    for pid, device in _ends(cluster, machine):
        try:
            shape = ["netem", "delay", f"{milliseconds}ms"]
            node.in_network(pid, "tc", "qdisc", "replace", "dev", device, "root", *shape, what="delay a link")
        except ClusterError as error:
            if "qdisc kind is unknown" not in str(error):
                raise
            raise ClusterError(
                "this kernel has no netem (CONFIG_NET_SCH_NETEM), so a link cannot be delayed"
            ) from error


def steady_link(cluster: Cluster, machine: str) -> None:
    """Undo slow_link, lossy_link and delayed_link."""
    _worker(cluster, machine)
    for pid, device in _ends(cluster, machine):
        # A link without a shape of its own has nothing to delete: that is what is wanted.
        subprocess.run(
            ["nsenter", f"--target={pid}", "--net", "--", "tc", "qdisc", "delete", "dev", device, "root"],
            capture_output=True,
            check=False,
        )
    for table, chain in (("raw", "PREROUTING"), ("mangle", "POSTROUTING")):
        for line in _iptables(cluster, machine, "-t", table, "-S", chain).splitlines():
            if "statistic" in line and "eth0" in line:
                _iptables(cluster, machine, "-t", table, "-D", *line.split()[1:])


def _ends(cluster: Cluster, machine: str) -> list[tuple[int, str]]:
    return [(cluster.pid(layout.CONTROL), layout.link(machine)), (cluster.pid(machine), "eth0")]


def _iptables(cluster: Cluster, machine: str, *arguments: str) -> str:
    # In the node's mounts too, where the lock file is the node's own.
    prefix = ["nsenter", f"--target={cluster.pid(machine)}", "--mount", "--net", "--", "env"]
    prefix += [f"{key}={value}" for key, value in node.environment().items()]
    done = subprocess.run([*prefix, "iptables", "-w", "10", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"change the packet rules of {machine}: {done.stderr.strip()[-300:]}")
    return done.stdout


# --- the control plane ----------------------------------------------------------------------------------------


def kill_component(cluster: Cluster, name: str) -> None:
    """SIGKILL a component of the control machine: etcd, kube-apiserver, kube-scheduler, ..."""
    _component(name)
    cluster.stop_program(layout.CONTROL, name)


def restart_component(cluster: Cluster, name: str) -> None:
    """Start a killed component again and wait until the API answers."""
    _component(name)
    cluster.start_program(layout.CONTROL, name)
    cluster.wait_for_api()


def _component(name: str) -> None:
    if name not in controlplane.COMPONENTS:
        raise ClusterError(
            f"{name} is no component of the control plane; there are {', '.join(controlplane.COMPONENTS)}"
        )


def kill_operator(api: Kubectl, option: str = "training-operator") -> None:
    """Kill an operator's pod without grace and let none come back."""
    within = api.within(_namespace(option))
    for item in within.get("deployment"):
        name = item["metadata"]["name"]
        selector = ",".join(f"{key}={value}" for key, value in item["spec"]["selector"]["matchLabels"].items())
        within("scale", f"deployment/{name}", "--replicas=0")
        within("delete", "pod", "-l", selector, "--grace-period=0", "--force")
        gone = partial(_none_left, within, selector)
        wait_for(gone, what=f"the end of {name}", timeout=60)


def _none_left(within: Kubectl, selector: str) -> bool:
    return not within.get("pod", None, "-l", selector)


def restart_operator(cluster: Cluster, option: str = "training-operator") -> None:
    """Bring a killed operator back and wait until it is ready."""
    within = cluster.kubectl.within(_namespace(option))
    for item in within.get("deployment"):
        within("scale", f"deployment/{item['metadata']['name']}", "--replicas=1")
    addons.wait_ready(cluster, option)


def _namespace(option: str) -> str:
    addons.check([option])
    namespace = addons.OPTIONS[option].namespace
    if namespace is None:
        raise ClusterError(f"{option} runs nothing that could be killed")
    return namespace


# --- pods -----------------------------------------------------------------------------------------------------


def delete_pod(api: Kubectl, pod: str, grace_seconds: int | None = None) -> None:
    """Delete a pod; without a number, with its own grace period."""
    grace = (
        []
        if grace_seconds is None
        else [f"--grace-period={grace_seconds}", *(["--force"] if grace_seconds == 0 else [])]
    )
    api("delete", "pod", pod, "--wait=false", *grace)


def evict_pod(api: Kubectl, pod: str) -> None:
    """Ask for a pod's eviction, as a drain or an autoscaler does; disruption budgets are respected."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": api.namespace}}
    path = f"/api/v1/namespaces/{api.namespace}/pods/{pod}/eviction"
    api("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def oom_kill_pod(api: Kubectl, pod: str, container: str | None = None) -> None:
    """Eat a container's memory until the kernel kills its first process; it needs a memory limit and a shell.

    The kernel kills the process that looks worst by its size and a bias. The first process is given the worst bias,
    and the eaters are four with the best bias they may have, because a container of which only a child was killed
    goes on. That is certain for pods whose requests equal their limits (class Guaranteed); in others the runtime may
    forbid a better bias.
    """
    if not _memory_limit(api, pod, container):
        raise ClusterError(f"the pod {pod} has no memory limit, so its memory cannot be exhausted")
    chosen = ["-c", container] if container else []
    eat = "for eater in 1 2 3 4; do tail /dev/zero & done; wait"
    script = f"(echo 1000 > /proc/1/oom_score_adj; echo 0 > /proc/self/oom_score_adj; {eat}) 2>/dev/null"
    done = api.attempt("exec", pod, *chosen, "--", "sh", "-c", script, timeout=300)
    if done.returncode == 0:
        raise ClusterError(f"the kernel killed those who ate the memory of pod {pod}, and spared its first process")


def _memory_limit(api: Kubectl, pod: str, container: str | None) -> Any:
    item = api.get("pod", pod)
    if item is None:
        raise ClusterError(f"there is no pod {pod}")
    for entry in item["spec"]["containers"]:
        if container in (None, entry["name"]):
            return entry.get("resources", {}).get("limits", {}).get("memory")
    raise ClusterError(f"the pod {pod} has no container {container}")


def fill_shared_memory(api: Kubectl, pod: str, container: str | None = None) -> int:
    """Fill a container's /dev/shm to the last byte; how many bytes it took."""
    chosen = ["-c", container] if container else []
    # dd ends with "No space left on device"; what it wrote stays.
    fill = "dd if=/dev/zero of=/dev/shm/filled-by-a-test bs=64k 2>/dev/null; wc -c < /dev/shm/filled-by-a-test"
    return int(api("exec", pod, *chosen, "--", "sh", "-c", fill).strip())


def exhaust_quota(api: Kubectl, **more: str) -> None:
    """Forbid any further pod in the namespace (or what is given, such as `cpu="1"`) by a ResourceQuota."""
    hard = more or {"pods": str(len(api.get("pod")))}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "exhausted"}, "spec": {"hard": hard}}
    api.apply(quota)
    api.wait(
        "resourcequota",
        "exhausted",
        lambda item: item is not None and item.get("status", {}).get("hard") == hard,
        what="the quota",
    )


# --- afterwards -----------------------------------------------------------------------------------------------


def repair(cluster: Cluster) -> None:
    """Undo whatever damage is there, so that the next test finds a whole cluster."""
    told = control.order(cluster.folder, "list")
    running = {(entry["machine"], entry["name"]) for entry in told["programs"] if entry["exit"] is None}
    for machine in told["machines"]:
        for name in cluster.components(machine):
            if (machine, name) not in running:
                cluster.start_program(machine, name)
    try:
        cluster.wait_for_api(timeout=20)
    except ClusterError:
        # An API server whose etcd was away for minutes asks for it again minutes later; a fresh one asks at once.
        cluster.stop_program(layout.CONTROL, "kube-apiserver")
        restart_component(cluster, "kube-apiserver")
    for machine in cluster.node_names:
        if machine not in told["machines"]:
            revive_node(cluster, machine)
            continue
        rejoin_node(cluster, machine)
        steady_link(cluster, machine)
    for machine in cluster.machines:
        cluster.wait_for_node(machine)
    for item in cluster.kubectl.get("node"):
        if item["spec"].get("unschedulable"):
            uncordon_node(cluster.kubectl, item["metadata"]["name"])
    for option in addons.installed(cluster):
        namespace = addons.OPTIONS[option].namespace
        if namespace and any(
            not item["spec"]["replicas"] for item in cluster.kubectl.within(namespace).get("deployment")
        ):
            restart_operator(cluster, option)
