"""What the API server answers when it refuses a request, as one sentence that says what to do. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from cclm.errors import UserError
from k8s.objects import LOCAL_QUEUE, OPERATOR_PODS, PYTORCH_JOB, TRAIN_JOB, WORKLOAD, Object, Resource


class ClusterError(UserError):
    """The cluster cannot be asked, or refuses. The message says what and what to do."""


class Unreachable(ClusterError):
    """There is no answer: no kubeconfig, no network, no API server, or wrong certificates."""


class NotFound(ClusterError):
    """The object does not exist."""


class MissingDefinition(ClusterError):
    """The API server does not know this kind of object: its operator is not installed."""


class Forbidden(ClusterError):
    """The user lacks a permission (RBAC)."""


class Conflict(ClusterError):
    """An object of this name exists already, or was changed meanwhile."""


class NotYet(ClusterError):
    """What was asked for does not exist yet, such as the log of a container that has not started."""


@dataclass(frozen=True)
class Request:
    """What was asked of the API server."""

    verb: str
    """As RBAC names it: get, list, create, patch, delete."""
    resource: Resource
    namespace: str | None = None
    name: str | None = None
    part: str | None = None
    """Subresource, such as `log`."""

    @property
    def target(self) -> str:
        """The object in words: `PyTorchJob x in namespace y`."""
        place = f" in namespace {self.namespace}" if self.namespace else ""
        return f"{self.resource.kind}{f' {self.name}' if self.name else ''}{place}"


_INSTALL = {
    PYTORCH_JOB.group: "install the training operator with: kubectl apply --server-side -k "
    '"github.com/kubeflow/training-operator.git/manifests/overlays/standalone?ref=v1.9.4"',
    TRAIN_JOB.group: "install Kubeflow Trainer and JobSet (https://www.kubeflow.org/docs/components/trainer/), "
    "or use the option backend=pytorchjob",
    WORKLOAD.group: "install Kueue (https://kueue.sigs.k8s.io/docs/installation/), or leave out the option queue",
}
"""API group to how one gets it."""

_OPERATORS = {
    PYTORCH_JOB.kind: f"the training operator (kubectl get pods -A {OPERATOR_PODS[PYTORCH_JOB.kind]})",
    TRAIN_JOB.kind: f"Kubeflow Trainer (kubectl get pods -A {OPERATOR_PODS[TRAIN_JOB.kind]})",
}

_DENIED = re.compile(r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]*)"')
_WEBHOOK = re.compile(r'failed calling webhook "(?P<name>[^"]+)"')


def refusal(status: int, body: bytes, request: Request) -> ClusterError:
    """The error for an answer of the API server.

    Args:
        status: HTTP status, 400 or more.
        body: a `Status` object as JSON, or plain text.
        request: what was asked.
    """
    answer = _parsed(body)
    message = str(answer.get("message") or body.decode(errors="replace").strip() or "no reason given")
    if status == 401:
        return ClusterError(
            "the cluster does not accept the credentials of this kubeconfig; they may have expired: log in again"
        )
    if status == 403:
        return _forbidden(message, request)
    if status == 404:
        return _not_found(answer, message, request)
    if status == 409:
        if answer.get("reason") == "AlreadyExists":
            return Conflict(f"there is already a {request.target}; give the run another name, or delete that one")
        return Conflict(f"{request.target} was changed by somebody else at the same moment; try again")
    if status == 400 and "is waiting to start" in message:
        return NotYet(message)
    webhook = _WEBHOOK.search(message)
    if webhook:
        return _silent_webhook(webhook["name"], message, request)
    if status in (400, 422):
        return ClusterError(f"the cluster refuses the {request.target}: {_reasons(answer, message)}")
    return ClusterError(f"the API server cannot {request.verb} the {request.target} ({status}): {message}")


def _parsed(body: bytes) -> Object:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _forbidden(message: str, request: Request) -> ClusterError:
    denied = _DENIED.search(message)
    if denied is None:  # a quota, or an admission policy
        return ClusterError(f"the cluster refuses the {request.target}: {message}")
    place = f"namespace {request.namespace}" if request.namespace else "the whole cluster"
    return Forbidden(
        f"{denied['user']} may not {denied['verb']} {request.resource.full_name}{_part(denied['resource'])} in "
        f"{place}: ask for a Role with the verb {denied['verb']} on {denied['resource']}"
        f"{f' of API group {request.resource.group}' if request.resource.group else ''}"
    )


def _part(resource: str) -> str:
    return f"/{resource.partition('/')[2]}" if "/" in resource else ""


def _not_found(answer: Object, message: str, request: Request) -> ClusterError:
    details = answer.get("details") or {}
    if details.get("kind") == "namespaces" or f'namespaces "{request.namespace}" not found' in message:
        return NotFound(
            f"there is no namespace {request.namespace}; choose another with -cfg namespace=NAME, or create it with: "
            f"kubectl create namespace {request.namespace}"
        )
    is_unknown = not answer or "could not find the requested resource" in message
    # Of a log or of metrics, a node or a program in the pod answers in such words: the pod has just left the node.
    if is_unknown and request.part not in ("log", "proxy"):
        group = request.resource.group
        return MissingDefinition(
            f"this cluster has no {request.resource.full_name} (version {request.resource.version}): "
            f"{_INSTALL.get(group, 'its API server is too old or too new for this version of cclm')}"
        )
    if request.resource == LOCAL_QUEUE:
        return NotFound(
            f"there is no queue {request.name} in namespace {request.namespace}; see the queues with: "
            f"kubectl -n {request.namespace} get localqueues"
        )
    return NotFound(f"there is no {request.target}")


def _silent_webhook(name: str, message: str, request: Request) -> ClusterError:
    operator = _OPERATORS.get(request.resource.kind, "an operator")
    if "kueue" in message:
        operator = "Kueue (kubectl get pods -A -l control-plane=controller-manager)"
    reason = message.rpartition(": ")[2]
    done = {"create": "created", "delete": "deleted"}.get(request.verb, "changed")
    return ClusterError(f"{operator} does not answer, so nothing was {done}: its webhook {name}: {reason}")


def _reasons(answer: Object, message: str) -> str:
    causes = (answer.get("details") or {}).get("causes") or []
    told = [f"{cause.get('field', '')}: {cause.get('message', '')}".strip(": ") for cause in causes]
    return "; ".join(filter(None, told)) or message
