"""A namespace of one test, with the small objects that tests put into it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from . import addons, images
from .cluster import Cluster
from .common import ClusterError
from .kubectl import Kubectl, Manifest, phase

# What a pod of a foreign cluster runs instead: it has a registry, and not our images.
PUBLIC_TOOLS = "busybox:1.36"


class Space:
    """kubectl within a namespace, and shorthand for trivial pods."""

    def __init__(self, api: Kubectl, owned: Cluster | None) -> None:
        if api.namespace is None:
            raise ClusterError("a test's space needs a namespace")
        self.api = api
        self.name: str = api.namespace
        self.owned = owned

    def create(self) -> None:
        """Make the namespace and wait until pods can be created in it."""
        Kubectl(self.api.kubeconfig)("create", "namespace", self.name)
        # A pod is refused until its namespace has its service account.
        self.api.wait(
            "serviceaccount", "default", lambda item: item is not None, what="the namespace's account", every=0.1
        )

    def remove(self) -> None:
        """Remove the namespace and wait until its pods are gone, those on lost nodes by force."""
        with contextlib.suppress(ClusterError):
            self.api("delete", "pod", "--all", "--grace-period=0", "--force", "--wait=false")
        Kubectl(self.api.kubeconfig)("delete", "namespace", self.name, "--wait=false", "--ignore-not-found")

    def need(self, *options: str) -> None:
        """Have these options (see addons.OPTIONS): installed on a cluster of ours, else the test is skipped without."""
        addons.check(list(options))
        if self.owned is not None:
            addons.install(self.owned, list(options))
            return
        for option in options:
            if self.api.get("crd", addons.OPTIONS[option].definition) is None:
                pytest.skip(f"the cluster of --kubeconfig has no {option}")

    @property
    def tools(self) -> str:
        """An image with a shell."""
        return images.TOOLS if self.owned else PUBLIC_TOOLS

    def pod_manifest(
        self, name: str, script: str = "exec sleep 100000", node: str | None = None, **spec: Any
    ) -> Manifest:
        """A pod with one container `main` that runs a shell script; further fields of its spec as keywords.

        The keyword `resources` goes to the container.
        """
        container: dict[str, Any] = {
            "name": "main",
            "image": self.tools,
            "command": ["sh", "-c", script],
        }
        if "resources" in spec:
            container["resources"] = spec.pop("resources")
        if node:
            spec["nodeSelector"] = {"kubernetes.io/hostname": node}
        body = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container], **spec}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": body}

    def start_pod(self, name: str, script: str = "exec sleep 100000", node: str | None = None, **spec: Any) -> Any:
        """Create a pod and wait until it runs."""
        self.api.apply(self.pod_manifest(name, script, node, **spec))
        return self.wait_phase(name, "Running")

    def wait_phase(self, pod: str, *phases: str, timeout: float = 240) -> Any:
        """Wait until a pod is in one of these phases."""
        what = f"pod {pod} becoming {' or '.join(phases)}"
        return self.api.wait(
            "pod", pod, lambda item: item if phase(item) in phases else None, what=what, timeout=timeout
        )

    def wait_gone(self, pod: str, timeout: float = 240) -> None:
        """Wait until a pod does not exist."""
        self.api.wait("pod", pod, lambda item: item is None, what=f"the end of pod {pod}", timeout=timeout)

    def shell(self, pod: str, script: str, timeout: float = 240) -> str:
        """What a shell script prints inside a pod."""
        return self.api("exec", pod, "--", "sh", "-c", script, timeout=timeout)
