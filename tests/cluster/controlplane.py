"""What runs on the control machine: etcd, the API server, its controllers, the scheduler and DNS."""

from __future__ import annotations

import os
from pathlib import Path

from . import gobuild, layout
from .pki import Authority

# In the order of a start. The last three wait for the API server by themselves.
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns")

# A node counts as lost after this many seconds without a sign of life (Kubernetes' own default is 50).
NODE_GRACE_SECONDS = 20


def environment() -> dict[str, str]:
    """What the components need of their surroundings: programs on the PATH and nothing of the caller's."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GOGC": "50"}


def make_certificates(folder: Path) -> Authority:
    """The authority with everything the control plane needs, and each component's kubeconfig."""
    authority = Authority(folder / "pki")
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    names.append(f"kubernetes.default.svc.{layout.DOMAIN}")
    addresses = ["127.0.0.1", layout.GATEWAY, layout.FIRST_SERVICE]
    alternatives = [f"DNS:{name}" for name in names] + [f"IP:{address}" for address in addresses]
    authority.issue("api-server", "/CN=kube-apiserver", alternatives)
    authority.issue("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client")
    configs = folder / "kubeconfigs"
    for name, subject in {
        "admin": "/O=system:masters/CN=admin",
        "kube-controller-manager": "/CN=system:kube-controller-manager",
        "kube-scheduler": "/CN=system:kube-scheduler",
        "coredns": "/O=system:masters/CN=coredns",
    }.items():
        authority.kubeconfig(configs / name, name, subject, layout.API_SERVER)
    return authority


def command(folder: Path, component: str) -> list[str | Path]:
    """The command line of a component."""
    return {
        "etcd": _etcd,
        "kube-apiserver": _api_server,
        "kube-controller-manager": _controller_manager,
        "kube-scheduler": _scheduler,
        "coredns": _coredns,
    }[component](folder)


def _kubernetes(component: str) -> Path:
    return gobuild.binary("kubernetes").parent / component


def _etcd(folder: Path) -> list[str | Path]:
    # Nothing here has to survive a power cut of the real machine, and fsync is what etcd mostly waits for.
    return [
        gobuild.binary("etcd"),
        f"--data-dir={folder / layout.CONTROL / 'etcd'}",
        "--unsafe-no-fsync",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=default=http://127.0.0.1:2380",
    ]


def _api_server(folder: Path) -> list[str | Path]:
    pki = folder / "pki"
    return [
        _kubernetes("kube-apiserver"),
        "--etcd-servers=http://127.0.0.1:2379",
        f"--advertise-address={layout.GATEWAY}",
        f"--secure-port={layout.API_PORT}",
        f"--service-cluster-ip-range={layout.SERVICES}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--tls-cert-file={pki / 'api-server.crt'}",
        f"--tls-private-key-file={pki / 'api-server.key'}",
        f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'kubelet-client.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer=https://kubernetes.default.svc.{layout.DOMAIN}",
        f"--service-account-key-file={pki / 'service-account.pub'}",
        f"--service-account-signing-key-file={pki / 'service-account.key'}",
        f"--cert-dir={folder / layout.CONTROL / 'api-server'}",
        "--profiling=false",
    ]


def _controller_manager(folder: Path) -> list[str | Path]:
    pki = folder / "pki"
    return [
        _kubernetes("kube-controller-manager"),
        f"--kubeconfig={folder / 'kubeconfigs' / 'kube-controller-manager'}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--cert-dir={folder / layout.CONTROL / 'controller-manager'}",
        "--use-service-account-credentials=true",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--service-account-private-key-file={pki / 'service-account.key'}",
        f"--cluster-signing-cert-file={pki / 'ca.crt'}",
        f"--cluster-signing-key-file={pki / 'ca.key'}",
        f"--node-monitor-grace-period={NODE_GRACE_SECONDS}s",
        "--node-monitor-period=2s",
        # It makes this folder if it is absent, and the default is one of the machine's.
        f"--flex-volume-plugin-dir={folder / layout.CONTROL / 'volume-plugins'}",
        "--profiling=false",
    ]


def _scheduler(folder: Path) -> list[str | Path]:
    return [
        _kubernetes("kube-scheduler"),
        f"--kubeconfig={folder / 'kubeconfigs' / 'kube-scheduler'}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--cert-dir={folder / layout.CONTROL / 'scheduler'}",
        "--profiling=false",
    ]


def _coredns(folder: Path) -> list[str | Path]:
    # No forward: there is nothing outside. Negative answers are kept for a second only, because the names
    # of a job's workers appear moments after they are first asked for.
    corefile = folder / layout.CONTROL / "Corefile"
    corefile.write_text(
        f""".:53 {{
    bind {layout.GATEWAY}
    ready {layout.GATEWAY}:8181
    errors
    cache {{
        success 1000 5
        denial 1000 1
    }}
    kubernetes {layout.DOMAIN} in-addr.arpa {{
        kubeconfig {folder / "kubeconfigs" / "coredns"}
        pods insecure
        ttl 5
    }}
}}
"""
    )
    return [gobuild.binary("coredns"), "-conf", corefile]
