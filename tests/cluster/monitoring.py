"""A Prometheus that the Prometheus Operator makes in a test's namespace, and the chart's rules with shorter times."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.prometheus_server import Prometheus

from . import control, images, layout
from .charts import RUN, rendered
from .cluster import Cluster
from .common import versions, wait_for
from .kubectl import Manifest, condition
from .space import Space

_NAME = "watching"
_DURATION = re.compile(r"\b(\d+)([mh])\b")
_SECONDS = re.compile(r"(?<=[<>] )(3600|6480|7200)\b")
"""Times that the expressions of rules compare with, in seconds."""


def start_prometheus(space: Space, cluster: Cluster) -> Prometheus:
    """A Prometheus that takes every PodMonitor and PrometheusRule of the test's namespace; once it answers."""
    space.need("prometheus-operator")
    name = {"name": _NAME}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": name}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": name,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "prometheus"},
        "subjects": [{"kind": "ServiceAccount", "name": _NAME, "namespace": space.name}],
    }  # fmt: skip
    spec = {
        "image": images.of_program("prometheus", "/bin/prometheus")[0],
        "version": _version(),
        "serviceAccountName": _NAME, "podMonitorSelector": {}, "ruleSelector": {},
        "scrapeInterval": "1s", "evaluationInterval": "1s",
        "nodeSelector": {"kubernetes.io/hostname": layout.CONTROL}, "tolerations": [{"operator": "Exists"}],
    }  # fmt: skip
    kind = {"apiVersion": "monitoring.coreos.com/v1", "kind": "Prometheus"}
    space.api.apply(account, binding, {**kind, "metadata": name, "spec": spec})
    space.api.wait("prometheus", _NAME, lambda item: condition(item, "Available"), what="a Prometheus", timeout=180)
    pod = space.api.get("pod", f"prometheus-{_NAME}-0")
    order = {"machine": layout.CONTROL, "host": pod["status"]["podIP"], "port": 9090}
    return Prometheus(f"127.0.0.1:{control.order(cluster.folder, 'forward', **order)['port']}")


def _version() -> str:
    """Prometheus' version as the operator knows it: v0.316.0 of the module is v3.16.0."""
    return re.sub(r"^v0\.3(\d\d)", r"v3.\1", str(versions()["go"]["prometheus"]["version"]))


def quick_rules(times: int) -> Manifest:
    """The chart's PrometheusRule with every duration divided, so that an hour is over soon."""

    def seconds(found: re.Match[str]) -> str:
        length = int(found[1]) * {"m": 60, "h": 3600}[found[2]]
        return f"{length // times}s"

    def shorten(value: Any) -> Any:
        if isinstance(value, str):
            value = _SECONDS.sub(lambda found: str(int(found[1]) // times), _DURATION.sub(seconds, value))
            return value.replace("cclm:", "quick:")
        return value

    objects = rendered(RUN, "run", "--set", "monitoring.alerts.enabled=true")
    (made,) = [one for one in objects if one["kind"] == "PrometheusRule"]
    groups = made["spec"]["groups"]
    for group in groups:
        group["name"] = f"quick-{group['name']}"
        if "interval" in group:
            group["interval"] = shorten(group["interval"])
        for rule in group["rules"]:
            rule.update(
                {key: shorten(rule[key]) for key in ("expr", "for", "keep_firing_for", "record") if key in rule}
            )
            rule.setdefault("labels", {})["quick"] = "yes"
    return {
        "apiVersion": made["apiVersion"],
        "kind": made["kind"],
        "metadata": {"name": "quick"},
        "spec": {"groups": groups},
    }


def rules(prometheus: Prometheus) -> list[dict[str, Any]]:
    """Rules that a Prometheus has loaded, with their `health` and `lastError`."""
    groups = prometheus.ask("rules")["groups"]
    return [rule for group in groups for rule in group["rules"]]


def is_firing(prometheus: Prometheus, alert: str) -> bool:
    """Whether the quick one of an alert is."""
    alerts = prometheus.ask("alerts")["alerts"]
    wanted = {"alertname": alert, "quick": "yes"}
    return any(one["state"] == "firing" and wanted.items() <= one["labels"].items() for one in alerts)


def wait_firing(prometheus: Prometheus, alert: str, wanted: bool, why: Callable[[], str], timeout: float = 600) -> None:
    """Wait until an alert fires, or until it does not."""
    what = f"{alert} {'firing' if wanted else 'being over'}"
    wait_for(lambda: is_firing(prometheus, alert) == wanted, what=what, timeout=timeout, every=0.5, why=why)
