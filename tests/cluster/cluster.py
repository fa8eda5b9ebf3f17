"""A cluster: brings it up, takes it down, and is the handle that tests hold."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import cgroups, control, controlplane, debs, gobuild, images, layout, node
from .common import (
    ClusterError,
    cache_folder,
    clusters_folder,
    locked,
    require_prerequisites,
    run,
    versions,
    wait_for,
)  # fmt: skip
from .kubectl import Kubectl, condition
from .pki import Authority
from .teardown import cgroup_of, life_lock, remove_dead, remove_remains, sweep, up_lock


def core_programs() -> list[str]:
    """The Go programs that every cluster needs."""
    return [name for name, entry in versions()["go"].items() if entry.get("core")]


def build_core() -> None:
    """Build and fetch what a plain cluster needs."""
    require_prerequisites()
    for name in core_programs():
        gobuild.build(name)
    debs.unpacked("node")
    debs.unpacked("tools")
    node.prepare_programs()


class Cluster:
    """A cluster of this machine, by name; it need not be up."""

    def __init__(self, name: str = "cclm") -> None:
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?", name):
            raise ClusterError(f"{name!r} is no name for a cluster: small letters, digits and dashes, at most 20")
        self.name = name
        self.folder = clusters_folder() / name

    # --- life ---------------------------------------------------------------------------------------------------

    @property
    def up_now(self) -> bool:
        """Whether the cluster's supervisor runs."""
        return control.reachable(self.folder)

    def up(self, nodes: int = 2, owner: int | None = None) -> None:
        """Bring the cluster up and wait until its nodes are Ready; it goes down when the process `owner` ends."""
        self.check(nodes)
        sweep()
        build_core()
        with self._alone():
            self.check(nodes)  # another `up` may have been faster
            self._make(nodes, owner or os.getpid())

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep a second `up` of this name from removing what the first is making."""
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(up_lock(self.name), wait=False, forget=True))
            except BlockingIOError as error:
                raise ClusterError(f"the cluster {self.name} is being brought up by another process") from error
            yield

    def _make(self, nodes: int, owner: int) -> None:
        with locked(life_lock(self.name), forget=True):  # an older supervisor may still be taking its own down
            remove_remains(self.folder)
        self.folder.mkdir(parents=True)
        group, pause = cgroup_of(self.folder), str(gobuild.binary("pause"))
        settings = {"name": self.name, "nodes": nodes, "cgroup": group, "pause": pause}
        fresh = self.folder / "cluster.json.new"
        fresh.write_text(json.dumps(settings))
        os.replace(fresh, self.folder / "cluster.json")
        try:
            self._bring_up(owner)
        except BaseException as error:
            if isinstance(error, Exception):  # not an interrupt
                self._keep_logs()
            self._end()
            raise

    def check(self, nodes: int) -> None:
        """Raise a sentence if `up` cannot work: at once, before anything is built."""
        if not 1 <= nodes <= layout.MOST_NODES:
            raise ClusterError(f"a cluster has 1 to {layout.MOST_NODES} nodes, not {nodes}")
        require_prerequisites()
        if self.up_now:
            raise ClusterError(f"the cluster {self.name} is up already; take it down first")
        for place in ("/var/lib", "/var/log", "/run"):
            if self.folder.is_relative_to(place):
                raise ClusterError(
                    f"the cache must not be below {place}, which every node sees a copy of: set CCLM_CLUSTER_CACHE"
                )

    def _bring_up(self, owner: int) -> None:
        authority = controlplane.make_certificates(self.folder)
        control.start_supervisor(self.folder, owner)
        self.start_machine(layout.CONTROL)
        self.start_program(layout.CONTROL, "etcd")
        self.start_program(layout.CONTROL, "kube-apiserver")
        port = control.order(self.folder, "forward", machine=layout.CONTROL, host=layout.GATEWAY, port=layout.API_PORT)[
            "port"
        ]
        authority.kubeconfig(self.kubeconfig, "admin", "/O=system:masters/CN=admin", f"https://127.0.0.1:{port}")
        for machine in self.node_names:
            self.start_machine(machine)
        # Machines take their images while the API server starts: neither needs the other.
        with ThreadPoolExecutor(4) as pool:
            loading = [pool.submit(self._start_containerd, machine) for machine in self.machines]
            self.wait_for_api()
            for component in ("kube-controller-manager", "kube-scheduler", "coredns"):
                self.start_program(layout.CONTROL, component)
            for done in loading:
                done.result()
        self._allow_kubelet_client()
        for machine in self.machines:
            self.start_program(machine, "kubelet")
            self.start_program(machine, "kube-proxy")
        for machine in self.machines:
            self.wait_for_node(machine)
        # A pod is refused until its namespace has its account.
        default = self.kubectl.within("default")
        default.wait("serviceaccount", "default", lambda item: item is not None, what="the default account", every=0.1)
        for entry in control.order(self.folder, "list")["programs"]:
            if entry["exit"] is not None:
                words = self.last_words(entry["machine"], entry["name"])
                raise ClusterError(f"{entry['name']} on {entry['machine']} ended at its start: {words}")
        self.kubectl("label", "node", layout.CONTROL, "node-role.kubernetes.io/control-plane=", "--overwrite")

    def _allow_kubelet_client(self) -> None:
        binding: dict[str, Any] = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "cclm-kube-proxy"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
            "subjects": [{"kind": "User", "name": "system:kube-proxy", "apiGroup": "rbac.authorization.k8s.io"}],
        }
        self.kubectl.apply(binding)

    def _keep_logs(self) -> None:
        """Save the components' logs of a start that failed where `down` does not remove them."""
        kept = cache_folder() / "failed-starts" / f"{self.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        with contextlib.suppress(ClusterError, OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            run(["cp", "-r", self.folder / "logs", kept], what="keep logs")

    def down(self) -> None:
        """Take the cluster down and remove everything it made; nothing happens if there is none."""
        if self.up_now:
            self._end()
        else:
            remove_dead(self.name, wait=True)

    def _end(self) -> None:
        if self.up_now:
            with contextlib.suppress(ClusterError):  # it may be leaving by itself
                control.order(self.folder, "leave")
        with locked(life_lock(self.name), forget=True):  # free when the supervisor, if there is one, has ended
            remove_remains(self.folder)

    def disown(self) -> None:
        """Let the cluster outlive the process that brought it up."""
        control.order(self.folder, "disown")

    # --- what it is made of -------------------------------------------------------------------------------------

    @property
    def kubeconfig(self) -> Path:
        """The file for clients on this machine."""
        return self.folder / "kubeconfig"

    @property
    def kubectl(self) -> Kubectl:
        """kubectl as the cluster's administrator."""
        return Kubectl(self.kubeconfig)

    @property
    def settings(self) -> dict[str, Any]:
        """What was asked for at the start."""
        settings: dict[str, Any] = json.loads((self.folder / "cluster.json").read_text())
        return settings

    @property
    def node_names(self) -> list[str]:
        """The worker nodes."""
        return layout.node_names(self.settings["nodes"])

    @property
    def machines(self) -> list[str]:
        """The control machine and the worker nodes."""
        return [layout.CONTROL, *self.node_names]

    def pid(self, machine: str) -> int:
        """The process that holds a machine."""
        running = control.order(self.folder, "list")["machines"]
        if machine not in running:
            raise ClusterError(f"the machine {machine} of cluster {self.name} is not running")
        return int(running[machine])

    def components(self, machine: str) -> tuple[str, ...]:
        """The programs that should run on a machine."""
        return (controlplane.COMPONENTS if machine == layout.CONTROL else ()) + node.COMPONENTS

    def log(self, machine: str, name: str) -> Path:
        """Where a program writes."""
        return self.folder / "logs" / machine / f"{name}.log"

    # --- parts, one by one --------------------------------------------------------------------------------------

    def start_machine(self, machine: str) -> None:
        """Power a machine on and connect it; nothing runs on it yet."""
        pid = control.order(self.folder, "start_machine", machine=machine)["pid"]
        node.connect(pid if machine == layout.CONTROL else self.pid(layout.CONTROL), machine, pid)

    def start_program(self, machine: str, name: str) -> None:
        """Start one of a machine's components."""
        if name in controlplane.COMPONENTS:
            command, env = controlplane.command(self.folder, name), controlplane.environment()
        else:
            command, env = node.command(self.folder, machine, name), node.environment()
        control.start_program(self.folder, machine, name, command, env)

    def stop_program(self, machine: str, name: str, number: int = signal.SIGKILL) -> None:
        """Kill one of a machine's components."""
        control.order(self.folder, "stop", machine=machine, name=name, number=int(number))

    def start_node(self, machine: str) -> None:
        """Power a worker node on again after it was killed, and start its components."""
        self.start_machine(machine)
        self._start_containerd(machine)
        self.start_program(machine, "kubelet")
        self.start_program(machine, "kube-proxy")

    def kill_machine(self, machine: str) -> None:
        """Cut a machine's power."""
        control.order(self.folder, "kill_machine", machine=machine)

    def _start_containerd(self, machine: str) -> None:
        self.start_program(machine, "containerd")
        pid = self.pid(machine)

        def answers() -> bool:
            with contextlib.suppress(ClusterError):
                run(node.containerd_client(pid, "version"), what="ask containerd", timeout=20)
                return True
            return False

        wait_for(
            answers,
            what=f"containerd on {machine}",
            timeout=60,
            every=0.1,
            why=lambda: self.last_words(machine, "containerd"),
        )
        for image in (images.pause(), images.tools(), images.bare()):
            self.load(image, [machine])

    def load(self, image: Path, machines: list[str] | None = None) -> str:
        """Import an image archive into the containerd of every worker node (or of these machines); its name.

        An image of this name with another content is replaced: pods started afterwards run the new one.
        """
        named = images.described(image)
        running = control.order(self.folder, "list")["machines"]
        for machine in machines or self.node_names:
            if machine not in running:
                raise ClusterError(f"the machine {machine} of cluster {self.name} is not running")
            images.load(running[machine], image, named)
        return named.reference

    # --- waiting ------------------------------------------------------------------------------------------------

    def wait_for_api(self, timeout: float = 90) -> None:
        """Wait until the API server says that it is ready."""
        wait_for(
            lambda: self.kubectl.attempt("get", "--raw", "/readyz", "--request-timeout=5s").returncode == 0,
            what="the API server's readiness",
            timeout=timeout,
            why=lambda: self.last_words(layout.CONTROL, "kube-apiserver"),
        )

    def wait_for_node(self, machine: str, ready: bool = True, timeout: float = 120, since: float = 0) -> None:
        """Wait until the API server counts a node as Ready, or as not Ready.

        A node that is Ready again takes no pod until the taints of its absence are gone, too, a moment later.
        With `since`, a moment of time.time(), only a sign of life after it counts: a node that was killed and
        revived at once is called Ready all the time.
        """

        def as_wanted(item: Any) -> bool:
            if item is None or condition(item, "Ready") != ready or (ready and _absence_taints(item)):
                return False
            return self._last_sign_of_life(machine) >= since

        what = f"node {machine} becoming {'Ready' if ready else 'not Ready'}"
        self.kubectl.wait("node", machine, as_wanted, what=what, timeout=timeout)

    def _last_sign_of_life(self, machine: str) -> float:
        lease = self.kubectl.within("kube-node-lease").get("lease", machine)
        if lease is None:
            return 0
        return datetime.datetime.fromisoformat(lease["spec"]["renewTime"]).timestamp()

    def last_words(self, machine: str, name: str, lines: int = 4) -> str:
        """The last lines of a component's log, those that speak of an error first."""
        path = self.log(machine, name)
        if not path.exists():
            return f"{name} never wrote a log"
        text = path.read_text(errors="replace").splitlines()[-400:]
        bad = [
            line
            for line in text
            if re.search(r"^[EF]\d{4} |level=(error|fatal)|\"level\":\"(error|fatal)\"|panic", line)
        ]
        return " | ".join((bad or text)[-lines:])[-1500:]

    def resident_bytes(self) -> dict[str, int]:
        """Memory of each machine: its components and its pods."""
        group = self.settings["cgroup"]
        return {machine: cgroups.resident_bytes(f"{group}/{machine}") for machine in self.machines}

    def authority(self) -> Authority:
        """The cluster's own certificate authority."""
        return Authority(self.folder / "pki")


def _absence_taints(item: Any) -> set[str]:
    keys = {taint["key"] for taint in item["spec"].get("taints") or []}
    return keys & {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}
