"""The API server of one Kubernetes cluster. Objects are plain dicts. Only this module imports `kubernetes`.

The client library does what is hard: it reads kubeconfig files, renews credentials, checks certificates, and finds
proxies. Requests are sent by its connection pool instead of its generated methods. Those return classes that differ
between its versions 36 and 37, and 36.0.3 returns a log as the repr of bytes.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

import urllib3
import yaml

from cclm.errors import UserError
from k8s.api_errors import NotFound, Request, Unreachable, refusal
from k8s.objects import POD, Object, Resource

CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 40.0
"""How long to wait for a connection, and for an answer. A webhook of an operator may take 30 s."""
METRICS_SECONDS = 1.5
"""How long to wait for a pod's metrics. A pod that hangs must not hold up who asks for its state."""
SILENCE_SECONDS = 60.0
"""A followed log without a line for this time is opened anew, as its connection may be dead."""
PAGE = 500
"""Objects in one answer to a list."""

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_ONLY_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


@dataclass(frozen=True)
class Message:
    """One HTTP request to the API server."""

    method: str
    path: str
    """With the query."""
    body: bytes | None = None
    content_type: str = "application/json"
    accept: str = "application/json"
    answer_seconds: float = ANSWER_SECONDS


class Answer(Protocol):
    """What `urllib3` returns for a request whose body is not read yet."""

    status: int

    @property
    def data(self) -> bytes:
        """The whole body."""

    def stream(self, amt: int) -> Iterator[bytes]:
        """The body in pieces of at most `amt` bytes, as they come."""

    def close(self) -> None:
        """Close the connection."""

    def release_conn(self) -> None:
        """Return the connection to the pool."""


class Transport(Protocol):
    """Sends requests to one API server."""

    namespace: str
    """The namespace that the kubeconfig names, `default` otherwise."""

    def send(self, message: Message) -> Answer:
        """Send a request and return the answer, whose body is not read yet.

        Raises:
            Unreachable: there is no answer.
        """


class Connection:
    """The connection that a kubeconfig describes, or the one that every pod has."""

    def __init__(self, context: str | None = None) -> None:
        """Read the kubeconfig. Nothing is sent yet.

        Args:
            context: of the kubeconfig; None means its current one. Without a kubeconfig, and in a pod, the pod's
                service account is used.

        Raises:
            Unreachable: there is no kubeconfig, or it has no such context.
        """
        try:
            from kubernetes import client, config
        except ImportError as error:
            raise UserError(f"the Kubernetes client is missing ({error}): pip install 'kubernetes>=36,<37'") from error
        self._settings = client.Configuration()
        self.namespace = "default"
        if context is None and _is_in_pod():
            config.load_incluster_config(client_configuration=self._settings)
            self.namespace = (_SERVICE_ACCOUNT / "namespace").read_text().strip()
        else:
            file = os.environ.get("KUBECONFIG")  # the library itself reads it only when it is imported
            try:
                config.load_kube_config(file, context, client_configuration=self._settings)
                chosen, active = config.list_kube_config_contexts(file)
            except config.ConfigException as error:
                raise Unreachable(_no_kubeconfig(context, str(error))) from error
            except (OSError, yaml.YAMLError, TypeError, AttributeError) as error:
                # A folder, a file that may not be read, or one that is no kubeconfig.
                first = str(error).splitlines()[0]
                raise Unreachable(_no_kubeconfig(context, f"it cannot be read: {first}")) from error
            active = next((entry for entry in chosen if entry["name"] == context), active)
            self.namespace = active["context"].get("namespace") or "default"
        self._settings.connection_pool_maxsize = 64  # followed logs hold a connection each
        self._pool: Any = client.ApiClient(self._settings).rest_client.pool_manager

    def send(self, message: Message) -> Answer:
        """See `Transport`."""
        headers = {"Accept": message.accept, "User-Agent": "cclm"}
        if message.body is not None:
            headers["Content-Type"] = message.content_type
        for entry in self._settings.auth_settings().values():
            headers[entry["key"]] = entry["value"]
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=message.answer_seconds)
        try:
            answer: Answer = self._pool.request(
                message.method, self._settings.host + message.path, body=message.body, headers=headers,
                timeout=timeout, retries=False, preload_content=False,
            )  # fmt: skip
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(_no_answer(self._settings.host, error)) from error
        return answer


class Cluster:
    """Objects of a cluster. Every method may raise a ClusterError, whose message is one sentence."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._counting = threading.Lock()
        self.calls = 0
        """Requests sent so far."""

    @property
    def namespace(self) -> str:
        """The namespace that the kubeconfig names."""
        return self._transport.namespace

    def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """An object.

        Raises:
            NotFound: there is none.
        """
        return self._object(Request("get", resource, namespace, name), Message("GET", resource.path(namespace, name)))

    def find(self, resource: Resource, namespace: str | None, name: str) -> Object | None:
        """An object, or None if there is none."""
        try:
            return self.get(resource, namespace, name)
        except NotFound:
            return None

    def exists(self, resource: Resource, namespace: str | None, name: str) -> bool:
        """Whether there is such an object. Its contents, which may be secret, are not sent."""
        message = Message("GET", resource.path(namespace, name), accept=_ONLY_METADATA)
        try:
            self._object(Request("get", resource, namespace, name), message)
        except NotFound:
            return False
        return True

    def list(
        self, resource: Resource, namespace: str | None = None, *, labels: str = "", fields: str = "", pages: int = 20
    ) -> list[Object]:
        """Objects of a kind, one call for each 500 of them.

        Args:
            resource: the kind.
            namespace: None means all namespaces.
            labels: label selector.
            fields: field selector.
            pages: highest number of calls; further objects are left out.
        """
        request = Request("list", resource, namespace)
        found: list[Object] = []
        following = ""
        for _ in range(pages):
            query = {"limit": str(PAGE), "labelSelector": labels, "fieldSelector": fields, "continue": following}
            page = self._object(request, Message("GET", _with_query(resource.path(namespace), query)))
            # Entries of a list do not say of what kind they are.
            kind = {"apiVersion": page.get("apiVersion", resource.version), "kind": resource.kind}
            found += [{**kind, **item} for item in page.get("items") or []]
            following = (page.get("metadata") or {}).get("continue") or ""
            if not following:
                break
        return found

    def create(self, resource: Resource, namespace: str | None, body: Object, *, is_dry_run: bool = False) -> Object:
        """Create an object.

        Args:
            resource: its kind.
            namespace: where.
            body: the object.
            is_dry_run: let the API server and the operators' webhooks check it, and create nothing.

        Raises:
            Conflict: there is one of this name.
        """
        query = {"fieldValidation": "Strict", "dryRun": "All" if is_dry_run else "", "fieldManager": "cclm"}
        message = Message("POST", _with_query(resource.path(namespace), query), json.dumps(body).encode())
        return self._object(Request("create", resource, namespace, body["metadata"].get("name")), message)

    def patch(
        self, resource: Resource, namespace: str | None, name: str, change: Object, *, part: str | None = None
    ) -> Object:
        """Change an object by a JSON merge patch; `part` is a subresource, such as `status`."""
        path = _with_query(resource.path(namespace, name, part), {"fieldManager": "cclm"})
        message = Message("PATCH", path, json.dumps(change).encode(), content_type="application/merge-patch+json")
        return self._object(Request("patch", resource, namespace, name, part), message)

    def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        grace_seconds: int | None = None,
        uid: str | None = None,
    ) -> None:
        """Delete an object; what belongs to it is deleted in the background.

        Args:
            resource: its kind.
            namespace: where it is.
            name: its name.
            grace_seconds: of a pod: how long it may take to end. 0 removes the record at once, whether or not the
                processes have ended. None leaves it to the pod.
            uid: delete it only if it is still this one.

        Raises:
            NotFound: there is none.
            Conflict: there is another one of this name.
        """
        options: Object = {"propagationPolicy": "Background"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        message = Message("DELETE", resource.path(namespace, name), json.dumps(options).encode())
        self._object(Request("delete", resource, namespace, name), message)

    def pod_metrics(self, namespace: str, pod: str, port: int) -> str:
        """What a pod serves at `/metrics`, fetched through the API server: Prometheus' text format."""
        request = Request("get", POD, namespace, pod, "proxy")
        path = POD.path(namespace, f"{pod}:{port}", "proxy/metrics")
        message = Message("GET", path, accept="text/plain", answer_seconds=METRICS_SECONDS)
        return self._bytes(request, message).decode(errors="replace")

    @contextmanager
    def pod_log(
        self, namespace: str, pod: str, container: str, options: Mapping[str, str], *, is_followed: bool = False
    ) -> Iterator[Iterator[bytes]]:
        """The log of a container, in pieces as they come, each line with its time.

        A followed log ends without an error at the container's end, at the pod's, and where the API server gives up
        the connection to the node. It never goes over to the next container.

        Args:
            namespace: of the pod.
            pod: its name.
            container: its name.
            options: of the API, such as `sinceTime` and `previous`.
            is_followed: go on with lines that are written later.

        Raises:
            NotYet: the container has not started.
            NotFound: there is no such pod.
            Unreachable: the connection broke, also in the midst of reading.
        """
        query = {**options, "container": container, "timestamps": "true", "follow": "true" if is_followed else ""}
        seconds = SILENCE_SECONDS if is_followed else ANSWER_SECONDS
        message = Message("GET", _with_query(POD.path(namespace, pod, "log"), query), answer_seconds=seconds)
        answer = self._send(Request("get", POD, namespace, pod, "log"), message)
        try:
            yield _pieces(answer)
        finally:
            answer.close()

    def wait_for_change(
        self, resource: Resource, namespace: str, name: str, since: Object | None, seconds: int
    ) -> None:
        """Wait until an object is created, changed or deleted, or this time has passed.

        Args:
            resource: its kind.
            namespace: where it is.
            name: its name.
            since: the object as it was read last; None if there was none.
            seconds: how long to wait at most.
        """
        version = since["metadata"]["resourceVersion"] if since is not None else ""
        query = {
            "watch": "true", "fieldSelector": f"metadata.name={name}", "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }  # fmt: skip
        path = _with_query(resource.path(namespace), query)
        request = Request("watch", resource, namespace, name)
        answer = self._send(request, Message("GET", path, answer_seconds=seconds + CONNECT_SECONDS))
        try:
            next(_pieces(answer), None)
        finally:
            answer.close()

    def _object(self, request: Request, message: Message) -> Object:
        answer: Object = json.loads(self._bytes(request, message))
        return answer

    def _bytes(self, request: Request, message: Message) -> bytes:
        answer = self._send(request, message)
        try:
            return answer.data
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(f"the API server broke off its answer: {error}") from error
        finally:
            answer.release_conn()

    def _send(self, request: Request, message: Message) -> Answer:
        with self._counting:
            self.calls += 1
        answer = self._transport.send(message)
        if answer.status < 400:
            return answer
        try:
            body = answer.data
        finally:
            answer.release_conn()
        raise refusal(answer.status, body, request)


def connect(context: str | None = None) -> Cluster:
    """The cluster that the kubeconfig names; see `Connection`."""
    return Cluster(Connection(context))


def _pieces(answer: Answer) -> Iterator[bytes]:
    try:
        yield from answer.stream(1 << 16)
    except urllib3.exceptions.HTTPError as error:
        raise Unreachable(f"the API server broke off its answer: {error}") from error


def _with_query(path: str, query: Mapping[str, str]) -> str:
    words = urlencode({key: value for key, value in query.items() if value})
    return f"{path}?{words}" if words else path


def _is_in_pod() -> bool:
    """Whether this process runs in a pod, and nobody gave it a kubeconfig."""
    has_file = "KUBECONFIG" in os.environ or Path("~/.kube/config").expanduser().exists()
    return "KUBERNETES_SERVICE_HOST" in os.environ and not has_file and (_SERVICE_ACCOUNT / "token").exists()


def _no_kubeconfig(context: str | None, reason: str) -> str:
    place = os.environ.get("KUBECONFIG") or "~/.kube/config"
    if context is not None and context in reason:
        return f"the kubeconfig {place} has no context {context}; see them with: kubectl config get-contexts"
    return (
        f"there is no usable kubeconfig at {place} ({reason.rstrip('.')}): set KUBECONFIG to the file that your "
        "cluster gave you, or use --dryrun, which needs none"
    )


def _no_answer(host: str, error: Exception) -> str:
    reason = str(getattr(error, "reason", None) or error)
    if "certificate" in reason.lower():
        return f"the cluster at {host} is not the one that the kubeconfig trusts: {reason}"
    words = reason.rpartition(": ")[2] or type(error).__name__
    return f"the cluster at {host} does not answer ({words}): is it up, and is this the right kubeconfig and context?"
