"""An API server in memory: it answers as the real one does, and notes what it was asked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from k8s.client import Cluster, Message
from k8s.objects import Object
from k8s.state import Observation

RECORDED = Path(__file__).with_name("recorded")


def recorded(name: str) -> Observation:
    """What a real cluster said of a job, as it was recorded."""
    kept = json.loads((RECORDED / f"{name}.json").read_text())
    nodes = {node["metadata"]["name"]: node for node in kept["nodes"]}
    now = datetime.fromisoformat(kept["now"])
    return Observation(kept["job"], kept["pods"], now, kept["events"], kept["workloads"], nodes)


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    data: bytes
    pieces: list[bytes] | None = None
    """The body as it comes, if that matters."""

    def stream(self, amt: int) -> Iterator[bytes]:
        yield from self.pieces if self.pieces is not None else [self.data]

    def close(self) -> None:
        """Nothing is open."""

    def release_conn(self) -> None:
        """Nothing is open."""


def not_found(kind: str, name: str) -> Answer:
    """As the API server says that there is no such object."""
    body = {
        "kind": "Status", "status": "Failure", "message": f'{kind} "{name}" not found', "reason": "NotFound",
        "details": {"name": name, "kind": kind}, "code": 404,
    }  # fmt: skip
    return Answer(404, json.dumps(body).encode())


def forbidden(verb: str, resource: str) -> Answer:
    """As the API server says that a permission is missing."""
    message = (
        f'{resource} is forbidden: User "ana" cannot {verb} resource "{resource}" in API group "" at the cluster scope'
    )
    body = {"kind": "Status", "message": message, "reason": "Forbidden", "details": {"kind": resource}, "code": 403}
    return Answer(403, json.dumps(body).encode())


UNKNOWN_KIND = Answer(404, b"404 page not found\n")
"""Where the definition of a kind is not installed."""


@dataclass
class ApiServer:
    """Holds objects by their paths."""

    namespace: str = "default"
    objects: dict[str, Object] = field(default_factory=dict)
    """Path to object."""
    asked: list[Message] = field(default_factory=list)
    special: list[tuple[re.Pattern[str], Callable[[Message], Any]]] = field(default_factory=list)
    """Expression for `METHOD path` to what answers instead; None lets the next one answer."""

    def answer(self, expression: str, *answers: Answer | Exception) -> None:
        """Answer requests that begin so: each answer once, the last one for ever."""
        left = list(answers)

        def give(_: Message) -> Answer:
            chosen = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(chosen, Exception):
                raise chosen
            return chosen

        self.special.append((re.compile(expression), give))

    def put(self, path: str, *items: Object) -> None:
        """Have objects at `path/NAME`."""
        for item in items:
            self.objects[f"{path}/{item['metadata']['name']}"] = item

    @property
    def lines(self) -> list[str]:
        """What was asked, as `METHOD path?query`."""
        return [f"{message.method} {message.path}" for message in self.asked]

    def cluster(self) -> Cluster:
        """A client of it."""
        return Cluster(self)

    def send(self, message: Message) -> Answer:
        """See `k8s.client.Transport`."""
        self.asked.append(message)
        for expression, give in self.special:
            if expression.match(f"{message.method} {message.path}"):
                return give(message)
        url = urlsplit(message.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if message.method == "GET":
            return self._get(url.path, query)
        if message.method == "POST":
            body = json.loads(message.body or b"")
            if "dryRun" not in query:
                self.put(url.path, body)
            return Answer(201, json.dumps(body).encode())
        if url.path not in self.objects:
            return not_found(url.path.rsplit("/", 2)[-2], url.path.rsplit("/", 1)[-1])
        if message.method == "DELETE":
            return Answer(200, json.dumps(self.objects.pop(url.path)).encode())
        _merge(self.objects[url.path], json.loads(message.body or b""))
        return Answer(200, json.dumps(self.objects[url.path]).encode())

    def _get(self, path: str, query: dict[str, str]) -> Answer:
        if path in self.objects:
            return Answer(200, json.dumps(self.objects[path]).encode())
        kind = re.fullmatch(
            r"(?P<root>/api/v1|/apis/[^/]+/[^/]+)(/namespaces/(?P<namespace>[^/]+))?/(?P<plural>\w+)", path
        )
        if kind is None:
            return not_found(*path.rsplit("/", 2)[-2:])
        place = rf"/namespaces/{kind['namespace'] or '[^/]+'}"
        form = re.compile(rf"{re.escape(kind['root'])}({place})?/{kind['plural']}/[^/]+")
        wanted = [pair.partition("=") for pair in query.get("labelSelector", "").split(",") if pair]
        fields = dict(
            pair.split("=", 1) for pair in query.get("fieldSelector", "").split(",") if "!=" not in pair and pair
        )
        items = [
            item
            for name, item in self.objects.items()
            if form.fullmatch(name)
            and all(_has_label(item, key, value if equals else None) for key, equals, value in wanted)
            and all(_field(item, key) == value for key, value in fields.items())
        ]
        limit, start = int(query.get("limit", "500")), int(query.get("continue", "0"))
        following = str(start + limit) if len(items) > start + limit else ""
        page = {"kind": "List", "metadata": {"continue": following}, "items": items[start : start + limit]}
        return Answer(200, json.dumps(page).encode())


def _has_label(item: Object, key: str, value: str | None) -> bool:
    """Whether an object has a label, with this value unless it is None."""
    found = (item["metadata"].get("labels") or {}).get(key)
    return found is not None and value in (None, found)


def _field(item: Any, path: str) -> Any:
    for key in path.split("."):
        item = (item or {}).get(key)
    return item


def _merge(target: Object, change: Object) -> None:
    for key, value in change.items():
        if isinstance(value, dict):
            _merge(target.setdefault(key, {}), value)
        else:
            target[key] = value
