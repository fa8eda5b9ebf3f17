"""What runs on every machine of a cluster: its network, containerd, the kubelet and kube-proxy."""

from __future__ import annotations

import json
import os
from pathlib import Path

import yaml

from . import controlplane, debs, gobuild, layout
from .common import run
from .pki import Authority

COMPONENTS = ("containerd", "kubelet", "kube-proxy")
SOCKET = "/run/containerd/containerd.sock"
PAUSE_IMAGE = "localhost/cclm/pause:1"


def environment() -> dict[str, str]:
    """What containerd and the kubelet need of their surroundings: unpacked programs before installed ones."""
    return {"HOME": "/nonexistent", "TMPDIR": "/run", "GOGC": "50", **debs.environment("node")}


def prepare_programs() -> None:
    """Give the packages' iptables the names that kube-proxy and the kubelet call."""
    folder = debs.program("node", "xtables-legacy-multi").parent
    for name in ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"):
        alias = folder / name
        if not alias.is_symlink():
            alias.symlink_to("xtables-legacy-multi")


def in_network(pid: int, *command: str, what: str) -> str:
    """Run a program in the network of a machine."""
    return run(["nsenter", f"--target={pid}", "--net", "--", *command], what=what)


def connect(control: int, machine: str, pid: int) -> None:
    """Give a machine its network: the control machine a bridge, a node a cable to that bridge.

    `control` and `pid` are the processes that hold the two machines.
    """
    script = ["set -e", "ip link set lo up", "echo 1 > /proc/sys/net/ipv4/ip_forward"]
    if machine == layout.CONTROL:
        script += [
            f"ip link add {layout.BRIDGE} type bridge",
            f"ip address add {layout.GATEWAY}/24 dev {layout.BRIDGE}",
            f"ip link set {layout.BRIDGE} up",
            "for f in all default nodes; do echo 0 > /proc/sys/net/ipv4/conf/$f/send_redirects; done",
            # A service's address needs a route before kube-proxy's rules can replace it.
            f"ip route add {layout.SERVICES} dev {layout.BRIDGE}",
            # Nothing is outside: say so at once instead of letting connections hang.
            "ip route add unreachable default metric 4096",
        ]
    else:
        name = layout.link(machine)
        in_network(
            control, "sh", "-ec",
            f"ip link delete {name} 2>/dev/null || true; "
            f"ip link add {name} type veth peer name eth0 netns {pid}; "
            f"ip link set {name} master {layout.BRIDGE} up; "
            f"ip route replace {layout.pod_range(machine)} via {layout.address(machine)}",
            what=f"connect {machine}",
        )  # fmt: skip
        script += [
            f"ip address add {layout.address(machine)}/24 dev eth0",
            "ip link set eth0 up",
            f"ip route add default via {layout.GATEWAY}",
        ]
    in_network(pid, "sh", "-c", "\n".join(script), what=f"set up the network of {machine}")


def command(folder: Path, machine: str, component: str) -> list[str | Path]:
    """The command line of a component, with its configuration files written."""
    (folder / machine).mkdir(parents=True, exist_ok=True)
    if component == "containerd":
        return [debs.program("node", "containerd"), "--config", _containerd_config(folder / machine, machine)]
    if component == "kubelet":
        return _kubelet(folder, machine)
    return [gobuild.binary("kubernetes").parent / "kube-proxy", f"--config={_proxy_config(folder, machine)}"]


def _containerd_config(own: Path, machine: str) -> Path:
    networks = own / "cni"
    networks.mkdir(exist_ok=True)
    (networks / "10-pods.conflist").write_text(
        json.dumps(
            {
                "cniVersion": "0.4.0",
                "name": "pods",
                "plugins": [
                    # One cable a pod and no bridge: every packet is routed, so kube-proxy's rules see it even
                    # between two pods of one node, without a kernel module.
                    {
                        "type": "ptp",
                        "ipam": {
                            "type": "host-local",
                            "dataDir": str(own / "cni-addresses"),
                            "ranges": [[{"subnet": layout.pod_range(machine)}]],
                            "routes": [{"dst": "0.0.0.0/0"}],
                        },
                    },
                    {"type": "portmap", "capabilities": {"portMappings": True}},
                ],
            }
        )
    )
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    config = own / "containerd.toml"
    config.write_text(
        f"""version = 2
root = "{own / "containerd"}"
state = "/run/containerd"
[grpc]
address = "{SOCKET}"
# Unused, but made at the start: by default in the machine's own /opt.
[plugins."io.containerd.internal.v1.opt"]
path = "{own / "opt"}"
[{cri}]
sandbox_image = "{PAUSE_IMAGE}"
# Without CAP_SYS_RESOURCE a lower score than one's own is refused, and runc dies of it.
restrict_oom_score_adj = true
disable_apparmor = true
[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[{cri}.containerd.runtimes.runc.options]
BinaryName = "{debs.program("node", "runc")}"
SystemdCgroup = false
[{cri}.cni]
bin_dir = "{debs.program("node", "ptp").parent}"
conf_dir = "{networks}"
"""
    )
    return config


def _kubelet(folder: Path, machine: str) -> list[str | Path]:
    own = folder / machine
    authority = Authority(folder / "pki")
    alternatives = [f"DNS:{machine}", f"IP:{layout.address(machine)}"]
    certificate, key = authority.issue(f"kubelet-{machine}", f"/O=system:nodes/CN=system:node:{machine}", alternatives)
    kubeconfig = authority.kubeconfig(
        folder / "kubeconfigs" / f"kubelet-{machine}",
        f"kubelet-{machine}",
        f"/O=system:nodes/CN=system:node:{machine}",
        layout.API_SERVER,
    )
    (own / "resolv.conf").write_text("")
    settings = json.loads((folder / "cluster.json").read_text())
    config = own / "kubelet.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "kind": "KubeletConfiguration",
                "containerRuntimeEndpoint": f"unix://{SOCKET}",
                "address": layout.address(machine),
                "authentication": {
                    "anonymous": {"enabled": False},
                    "webhook": {"enabled": True},
                    "x509": {"clientCAFile": str(authority.certificate)},
                },
                "authorization": {"mode": "Webhook"},
                "tlsCertFile": str(certificate),
                "tlsPrivateKeyFile": str(key),
                "cgroupDriver": "cgroupfs",
                # Two kubelets under one root each remove the other's pods.
                "cgroupRoot": f"/{settings['cgroup']}/{machine}",
                "failSwapOn": False,
                "clusterDNS": [layout.GATEWAY],
                "clusterDomain": layout.DOMAIN,
                "resolvConf": str(own / "resolv.conf"),
                "podLogsDir": str(own / "pod-logs"),
                "volumePluginDir": str(own / "volume-plugins"),
                # The disk is the whole machine's, and how full it is says nothing about the tests.
                "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
                "imageGCHighThresholdPercent": 100,
                "imageGCLowThresholdPercent": 99,
                "nodeStatusUpdateFrequency": "5s",
                "nodeLeaseDurationSeconds": controlplane.NODE_GRACE_SECONDS,
                "maxPods": 60,
                "registerWithTaints": (
                    [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]
                    if machine == layout.CONTROL
                    else []
                ),
            }
        )
    )
    return [
        gobuild.binary("kubernetes").parent / "kubelet",
        f"--config={config}",
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={machine}",
        f"--node-ip={layout.address(machine)}",
        f"--root-dir={own / 'kubelet'}",
        f"--cert-dir={own / 'kubelet-certificates'}",
    ]


def _proxy_config(folder: Path, machine: str) -> Path:
    kubeconfig = Authority(folder / "pki").kubeconfig(
        folder / "kubeconfigs" / "kube-proxy", "kube-proxy", "/CN=system:kube-proxy", layout.API_SERVER
    )
    config = folder / machine / "kube-proxy.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "clientConnection": {"kubeconfig": str(kubeconfig)},
                "hostnameOverride": machine,
                "mode": "iptables",
                "clusterCIDR": "10.201.0.0/16",
                # Zero leaves the machine's own limits alone.
                "conntrack": {"maxPerCore": 0, "min": 0},
                "healthzBindAddress": "127.0.0.1:10256",
                "metricsBindAddress": "127.0.0.1:10249",
            }
        )
    )
    return config


def containerd_client(pid: int, *arguments: str | os.PathLike[str]) -> list[str]:
    """The command line of `ctr` on a machine."""
    ctr = debs.program("node", "ctr")
    return ["nsenter", f"--target={pid}", "--mount", "--net", "--", str(ctr), f"--address={SOCKET}", "-n", "k8s.io"] + [
        str(argument) for argument in arguments
    ]
