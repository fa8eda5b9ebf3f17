"""The way to a cluster's API: kubectl with one kubeconfig, whoever made the cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from . import gobuild
from .common import ClusterError, cache_folder, digest, run, wait_for

Manifest = dict[str, Any]

_WEBHOOK_PATIENCE = 60.0
"""Seconds for which an operator's webhook may refuse the connection before that is an error."""


def program() -> Path:
    """kubectl of the cache, else the machine's own."""
    built = gobuild.binary("kubectl")
    if built.exists():
        return built
    found = shutil.which("kubectl")
    if found is None:
        raise ClusterError("kubectl is neither in the cache (`python -m tests.cluster build`) nor on this machine")
    return Path(found)


def cache_of(kubeconfig: Path) -> Path:
    """Where kubectl remembers what the API offers: not in the home folder, and no cluster takes another's word."""
    return cache_folder() / "kubectl" / digest(str(kubeconfig))


class Kubectl:
    """Commands against one cluster, in one namespace if given."""

    def __init__(self, kubeconfig: Path, namespace: str | None = None) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace

    def within(self, namespace: str) -> Kubectl:
        """The same cluster, in a namespace."""
        return Kubectl(self.kubeconfig, namespace)

    def command(self, *arguments: str) -> list[str]:
        """The whole command line."""
        namespace = ["--namespace", self.namespace] if self.namespace else []
        place = ["--kubeconfig", str(self.kubeconfig), "--cache-dir", str(cache_of(self.kubeconfig))]
        return [str(program()), *place, *namespace, *arguments]

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Run a command and return what it printed; a failure becomes a ClusterError with kubectl's words."""
        return run(self.command(*arguments), what=f"kubectl {arguments[0]}", stdin=stdin, timeout=timeout)

    def attempt(
        self, *arguments: str, stdin: str | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command whose failure is an answer too, as is none in time (status 124)."""
        command = self.command(*arguments)
        try:
            return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", f"no answer within {timeout:g} s")

    def get(self, kind: str, name: str | None = None, *options: str) -> Any:
        """An object, or None if there is none; without a name, the list of the kind's objects."""
        if name is None:
            return json.loads(self("get", kind, "-o", "json", *options))["items"]
        text = self("get", kind, name, "-o", "json", "--ignore-not-found", *options)
        return json.loads(text) if text.strip() else None

    def apply(self, *manifests: Manifest, server_side: bool = False) -> None:
        """Apply objects; server-side for those too large for the annotation of a client-side apply.

        An operator that has just become Ready is not yet known to kube-proxy everywhere: while its webhook refuses the
        connection, the objects are sent again for a while.
        """
        options = ["--server-side", "--force-conflicts"] if server_side else []
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
        end = time.monotonic() + _WEBHOOK_PATIENCE
        while True:
            try:
                self("apply", *options, "-f", "-", stdin=text)
                return
            except ClusterError as error:
                unheard = "failed calling webhook" in str(error) and "connection refused" in str(error)
                if not unheard or time.monotonic() > end:
                    raise
            time.sleep(0.5)

    def patch(self, kind: str, name: str, change: Any, *options: str) -> None:
        """Change an object by a JSON patch (a list) or a merge patch (an object)."""
        form = "json" if isinstance(change, list) else "merge"
        self("patch", kind, name, f"--type={form}", "-p", json.dumps(change), *options)

    def wait(
        self,
        kind: str,
        name: str,
        condition: Callable[[Any], Any],
        *,
        what: str,
        timeout: float = 240,
        every: float = 0.5,
    ) -> Any:
        """Wait until the object fulfils the condition (it is asked with None while there is no object)."""
        last: Any = None

        def fulfilled() -> Any:
            nonlocal last
            last = self.get(kind, name)
            return condition(last)

        def why() -> str:
            return f"{kind} {name} is {_in_short(last)}"

        return wait_for(fulfilled, what=what, timeout=timeout, every=every, why=why)


def _in_short(item: Any) -> str:
    if item is None:
        return "absent"
    return json.dumps(item.get("status", item.get("metadata")), sort_keys=True)[:1500]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as Kubernetes reads it: a lone `=`, which occurs in definitions, is a string.

    By libyaml where it is there: an operator's definitions are megabytes, and in Python each takes seconds.
    """


_Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: str(node.value))


def documents(text: str) -> list[Manifest]:
    """The objects in a stream of YAML documents."""
    return [item for item in yaml.load_all(text, _Loader) if item]


def of_kind(manifests: Iterable[Manifest], kind: str) -> list[Manifest]:
    """Those of one kind."""
    return [item for item in manifests if item["kind"] == kind]


def phase(pod: Any) -> str | None:
    """A pod's phase, None if there is no pod."""
    return None if pod is None else str(pod.get("status", {}).get("phase"))


def condition(item: Any, kind: str) -> bool:
    """Whether a condition of an object is true."""
    found = (item or {}).get("status", {}).get("conditions") or []
    return any(entry["type"] == kind and entry["status"] == "True" for entry in found)


def kubeconfig_environment(kubeconfig: Path) -> dict[str, str]:
    """The caller's environment with this cluster as the one that every client finds."""
    folders = [str(program().parent), os.environ.get("PATH", "")]
    places = {"KUBECONFIG": str(kubeconfig), "KUBECACHEDIR": str(cache_of(kubeconfig))}
    return {**os.environ, **places, "PATH": os.pathsep.join(folders)}
