"""The controller against an API server in memory: what it deletes, says, and survives."""

import json
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s import dead_nodes
from k8s.api_errors import Unreachable
from k8s.client import Cluster, Message
from k8s.dead_nodes import Controller
from tests.unit.k8s.lost_nodes import node, pod

MANIFEST = Path(dead_nodes.__file__).with_name("dead_nodes.yaml")


class Answer:
    """An answer whose body is known."""

    def __init__(self, status: int, body: Any) -> None:
        self.status, self.data = status, json.dumps(body).encode()

    def stream(self, amt: int) -> Iterator[bytes]:
        yield self.data

    def close(self) -> None: ...

    def release_conn(self) -> None: ...


class Api:
    """Nodes, pods and events, as far as the controller asks for them."""

    namespace = "default"

    def __init__(self) -> None:
        self.nodes = [node("a", "Unknown"), node("b"), node("c")]
        self.pods = [pod("run7-worker-0", "a"), pod("run7-worker-1", "b", deleted=None)]
        self.events: list[Any] = []
        self.asked: list[tuple[str, str]] = []
        """Method and path of each request."""
        self.is_away = False
        self.before_delete: Callable[[], None] = lambda: None

    def send(self, message: Message) -> Answer:
        path, _, query = message.path.partition("?")
        self.asked.append((message.method, path))
        if self.is_away:
            raise Unreachable("the cluster does not answer")
        match (message.method, path.split("/")[3:]):
            case ("GET", ["nodes"]):
                return Answer(200, {"items": self.nodes})
            case ("GET", ["nodes", name]):
                found = [item for item in self.nodes if item["metadata"]["name"] == name]
                return Answer(200, found[0]) if found else Answer(404, {"message": "no such node"})
            case ("GET", ["pods"]):
                assert urllib.parse.parse_qs(query)["labelSelector"] == ["app.kubernetes.io/part-of=cclm"]
                return Answer(200, {"items": self.pods})
            case ("DELETE", ["namespaces", _, "pods", name]):
                self.before_delete()
                body = json.loads(message.body or b"{}")
                assert body["gracePeriodSeconds"] == 0
                found = [item for item in self.pods if item["metadata"]["name"] == name]
                if not found:
                    return Answer(404, {"message": "no such pod"})
                if found[0]["metadata"]["uid"] != body["preconditions"]["uid"]:
                    return Answer(409, {"reason": "Conflict", "message": "another uid"})
                self.pods.remove(found[0])
                return Answer(200, {})
            case ("POST", ["namespaces", _, "events"]):
                self.events.append(json.loads(message.body or b"{}"))
                return Answer(201, self.events[-1])
        raise AssertionError(f"{message.method} {message.path}")


class Clock:
    """A clock that only this test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def controller(api: Api, clock: Clock, said: list[str]) -> Controller:
    return Controller(Cluster(api), None, 60, is_dry_run=False, say=said.append, clock=clock)


def look_for(controller: Controller, clock: Clock, seconds: float) -> None:
    """Look every five seconds."""
    end = clock.now + seconds
    while clock.now <= end:
        controller.look()
        clock.now += 5


def names(api: Api) -> list[str]:
    return [item["metadata"]["name"] for item in api.pods]


def test_a_dead_node_is_cleared(api: Api, controller: Controller, clock: Clock, said: list[str]) -> None:
    look_for(controller, clock, 55)
    assert names(api) == ["run7-worker-0", "run7-worker-1"] and said == []
    look_for(controller, clock, 5)
    assert names(api) == ["run7-worker-1"]
    text = "deleted pod team/run7-worker-0 of job run7 by force: its node a has not been ready for 60 s"
    assert said == [text]
    about = [(event["involvedObject"]["kind"], event["involvedObject"]["name"]) for event in api.events]
    assert about == [("Pod", "run7-worker-0"), ("PyTorchJob", "run7")]
    assert all(event["message"] == text and event["reason"] == "DeadNode" for event in api.events)


def test_as_long_as_all_is_well_only_nodes_are_read(api: Api, controller: Controller, clock: Clock) -> None:
    api.nodes[0] = node("a")
    look_for(controller, clock, 100)
    assert set(api.asked) == {("GET", "/api/v1/nodes")}


def test_a_node_that_comes_back_in_time_is_left_alone(api: Api, controller: Controller, clock: Clock) -> None:
    look_for(controller, clock, 50)
    api.nodes[0] = node("a")
    look_for(controller, clock, 10)
    api.nodes[0] = node("a", "Unknown")
    look_for(controller, clock, 55)
    assert "run7-worker-0" in names(api)


def test_a_node_that_is_back_at_the_last_moment(api: Api, controller: Controller, clock: Clock) -> None:
    """The list of nodes was read before it came back."""
    look_for(controller, clock, 55)
    stale = list(api.nodes)
    real = api.send

    def send(message: Message) -> Answer:
        if message.path.startswith("/api/v1/nodes?"):
            return Answer(200, {"items": stale})
        api.nodes[0] = node("a")
        return real(message)

    api.send = send  # type: ignore[method-assign]
    look_for(controller, clock, 10)
    assert "run7-worker-0" in names(api) and ("GET", "/api/v1/nodes/a") in api.asked


def test_a_replacement_of_the_same_name_is_never_deleted(
    api: Api, controller: Controller, clock: Clock, said: list[str]
) -> None:
    def replace() -> None:
        api.pods[0]["metadata"]["uid"] = "uid-of-the-replacement"

    api.before_delete = replace
    look_for(controller, clock, 60)
    assert "run7-worker-0" in names(api) and said == [] and api.events == []


def test_when_most_nodes_look_dead_it_waits_and_says_so(
    api: Api, controller: Controller, clock: Clock, said: list[str]
) -> None:
    api.nodes[1] = node("b", "Unknown")
    look_for(controller, clock, 200)
    assert "run7-worker-0" in names(api)
    assert said == ["2 of 3 nodes are not ready, so the control plane may be cut off; nothing is cleared"]
    api.nodes[1] = node("b")
    controller.look()
    assert "run7-worker-0" not in names(api)  # it was seen all the time


def test_an_api_server_that_is_away(api: Api, controller: Controller, clock: Clock, said: list[str]) -> None:
    """A short absence changes nothing. After a long one nobody knows what nodes did, so they are watched anew."""
    look_for(controller, clock, 30)
    api.is_away = True
    look_for(controller, clock, 15)
    assert said == ["the cluster does not answer"]
    api.is_away = False
    look_for(controller, clock, 10)
    assert "run7-worker-0" not in names(api)

    api.pods.append(pod("run7-worker-0", "a"))
    api.is_away = True
    look_for(controller, clock, 60)
    api.is_away = False
    look_for(controller, clock, 55)
    assert "run7-worker-0" in names(api)
    look_for(controller, clock, 5)
    assert "run7-worker-0" not in names(api)


def test_a_dry_run_names_each_pod_once(api: Api, clock: Clock, said: list[str]) -> None:
    controller = Controller(Cluster(api), None, 60, is_dry_run=True, say=said.append, clock=clock)
    look_for(controller, clock, 100)
    assert "run7-worker-0" in names(api) and api.events == []
    assert said == ["would delete pod team/run7-worker-0 of job run7: its node a has not been ready for 60 s"]


def test_without_a_kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert dead_nodes.run([]) == 2
    assert capsys.readouterr().err.startswith("error: there is no usable kubeconfig")


def test_the_manifest_allows_what_is_asked_for_and_no_more(api: Api, controller: Controller, clock: Clock) -> None:
    """The verbs of its role are those that the controller uses, and its options are understood."""
    look_for(controller, clock, 60)
    objects = list(yaml.safe_load_all(MANIFEST.read_text()))
    (role,) = (item for item in objects if item["kind"] == "ClusterRole")
    allowed = {(rule["resources"][0], verb) for rule in role["rules"] for verb in rule["verbs"]}
    verbs = {"POST": "create", "DELETE": "delete"}
    used = set()
    for method, path in api.asked:
        words = path.split("/")[3:]
        plural = words[2] if words[0] == "namespaces" else words[0]
        used.add((plural, verbs.get(method) or ("get" if words[-1] != plural else "list")))
    assert allowed == used
    (deployment,) = (item for item in objects if item["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    options = dead_nodes._parser().parse_args(container["args"])
    assert (
        container["command"] == ["python", "-m", "k8s.dead_nodes"]
        and options.port == container["ports"][0]["containerPort"]
    )
