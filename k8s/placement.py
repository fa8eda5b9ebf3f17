"""On which nodes the pods of a job may run: selectors, tolerations, affinity."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from torchx.specs import Resource

from cclm.errors import UserError
from k8s.names import JOB_LABEL
from k8s.settings import JobSettings

Manifest = dict[str, Any]

HOST = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"

SPOT_LABELS = {
    "karpenter.sh/capacity-type": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "cloud.google.com/gke-spot": "true",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
"""How Karpenter, EKS, GKE and AKS label their spot nodes; the last two taint them likewise."""

_KEY = re.compile(r"([A-Za-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?")
"""Key and value of a taint."""
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_LOST = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_AFFINITIES = ("nodeAffinity", "podAffinity", "podAntiAffinity")
_STRONGEST = 100
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def node_selector(resource: Resource, settings: JobSettings) -> dict[str, str]:
    """Labels that a node must have. Those of a named resource are its capabilities with a / in their names."""
    of_resource = {key: str(value) for key, value in resource.capabilities.items() if "/" in key}
    return {**of_resource, **settings.node_selectors}


def tolerations(devices: dict[str, int], settings: JobSettings) -> list[Manifest]:
    """Taints that the pods tolerate.

    Args:
        devices: the GPUs and other devices of a pod; clouds taint nodes that have such with the device's name.

    Raises:
        UserError: a toleration that cannot be read.
    """
    found = [{"key": name, "operator": "Exists", "effect": "NoSchedule"} for name in devices]
    if settings.capacity != "on-demand":
        found += [
            {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
            for key, value in SPOT_LABELS.items()
        ]
    found += [_toleration(text) for text in settings.tolerations]
    lost = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": settings.lost_node_seconds}
        for key in _LOST
    ]
    return found + lost


def _toleration(text: str) -> Manifest:
    """One of KEY, KEY:EFFECT, KEY:VALUE, KEY:VALUE:EFFECT."""
    key, *rest = text.split(":")
    is_wrong = not _KEY.fullmatch(key) or not all(_VALUE.fullmatch(word) for word in rest)
    if is_wrong or len(rest) > 2 or (len(rest) == 2 and rest[1] not in _EFFECTS):
        raise UserError(
            f"run option tolerations: {text} is not KEY, KEY:EFFECT, KEY:VALUE or KEY:VALUE:EFFECT, with EFFECT one "
            f"of {', '.join(_EFFECTS)}"
        )
    effect = {"effect": rest.pop()} if rest and rest[-1] in _EFFECTS else {}
    if rest:
        return {"key": key, "operator": "Equal", "value": rest[0], **effect}
    return {"key": key, "operator": "Exists", **effect}


def affinity(name: str, pods: int, settings: JobSettings) -> Manifest:
    """Which nodes and neighbours the pods of a job prefer or need; empty if it is all the same.

    Args:
        name: of the job.
        pods: most pods of the job; one pod has no neighbours.

    Raises:
        UserError: the file of the run option `affinity` cannot be used.
    """
    found = _affinity_of_file(settings.affinity) if settings.affinity else {}
    if settings.capacity != "any":
        _require_capacity(found, settings.capacity)
    if pods > 1:
        _add_neighbours(found, "podAntiAffinity", settings.spread_hosts, name, HOST)
        _add_neighbours(found, "podAffinity", settings.same_zone, name, ZONE)
    return found


def _affinity_of_file(path: str) -> Manifest:
    try:
        content = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"run option affinity={path}: cannot be read: {str(error).splitlines()[0]}") from None
    known = isinstance(content, dict) and all(
        key in _AFFINITIES and isinstance(value, dict) for key, value in content.items()
    )
    if not known:
        raise UserError(f"run option affinity={path}: the file holds a mapping with {', '.join(_AFFINITIES)}")
    return dict(content)


def _require_capacity(found: Manifest, capacity: str) -> None:
    """Only spot nodes, or none. Each cloud has its own label; a node has at most one of them."""
    if capacity == "spot":
        terms = [[{"key": key, "operator": "In", "values": [value]}] for key, value in SPOT_LABELS.items()]
    else:
        terms = [[{"key": key, "operator": "NotIn", "values": [value]} for key, value in SPOT_LABELS.items()]]
    node = found["nodeAffinity"] = dict(found.get("nodeAffinity", {}))
    given = node.get(_REQUIRED, {}).get("nodeSelectorTerms") or [{}]
    # Terms are alternatives. So each of the file's is combined with each of ours.
    node[_REQUIRED] = {
        "nodeSelectorTerms": [
            {**term, "matchExpressions": [*term.get("matchExpressions", []), *expressions]}
            for term in given
            for expressions in terms
        ]
    }


def _add_neighbours(found: Manifest, kind: str, wanted: str, name: str, domain: str) -> None:
    """A rule about the job's other pods in the same domain (host or zone), beside those of the file."""
    if wanted == "none":
        return
    term = {"labelSelector": {"matchLabels": {JOB_LABEL: name}}, "topologyKey": domain}
    rules = found[kind] = dict(found.get(kind, {}))
    if wanted == "required":
        rules[_REQUIRED] = [*rules.get(_REQUIRED, []), term]
    else:
        rules[_PREFERRED] = [*rules.get(_PREFERRED, []), {"weight": _STRONGEST, "podAffinityTerm": term}]
