"""The client of the API server, against answers that a real one gave (Kubernetes 1.33)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from k8s import client
from k8s.api_errors import (
    ClusterError,
    Conflict,
    Forbidden,
    MissingDefinition,
    NotFound,
    NotYet,
    Request,
    Unreachable,
    refusal,
)
from k8s.objects import LOCAL_QUEUE, NODE, POD, PYTORCH_JOB, SECRET, TRAIN_JOB, WORKLOAD, Resource
from tests.unit.k8s.api_server import ApiServer

CREATE = Request("create", PYTORCH_JOB, "team", "run")
WEBHOOK = (
    'Internal error occurred: failed calling webhook "validator.pytorchjob.training-operator.kubeflow.org": failed to '
    'call webhook: Post "https://training-operator.kubeflow.svc:443/validate-kubeflow-org-v1-pytorchjob?timeout=10s": '
    "dial tcp 10.96.3.7:443: connect: connection refused"
)


def _status(message: str, reason: str = "", **details: object) -> bytes:
    return json.dumps({"kind": "Status", "message": message, "reason": reason, "details": details}).encode()


@pytest.mark.parametrize(
    ("request_", "status", "body", "kind", "sentence"),
    [
        (
            CREATE, 404, _status('namespaces "team" not found', "NotFound", name="team", kind="namespaces"), NotFound,
            "there is no namespace team; choose another with -cfg namespace=NAME, or create it with: kubectl create "
            "namespace team",
        ),
        (
            CREATE, 404, b"404 page not found\n", MissingDefinition,
            "this cluster has no pytorchjobs.kubeflow.org (version v1): install the training operator with: kubectl "
            'apply --server-side -k "github.com/kubeflow/training-operator.git/manifests/overlays/standalone'
            '?ref=v1.9.4"',
        ),
        (
            Request("list", WORKLOAD, "team"), 404, b"404 page not found\n", MissingDefinition,
            "this cluster has no workloads.kueue.x-k8s.io (version v1beta1): install Kueue "
            "(https://kueue.sigs.k8s.io/docs/installation/), or leave out the option queue",
        ),
        (
            Request("get", TRAIN_JOB, "team", "run"), 404,
            _status("the server could not find the requested resource", "NotFound"), MissingDefinition,
            "this cluster has no trainjobs.trainer.kubeflow.org (version v1alpha1): install Kubeflow Trainer and "
            "JobSet (https://www.kubeflow.org/docs/components/trainer/), or use the option backend=pytorchjob",
        ),
        (
            # A node that has just removed the pod, while the API server still has it.
            Request("get", POD, "team", "p", "log"), 404,
            _status(
                "the server could not find the requested resource ( pods/log p)", "NotFound", name="p",
                kind="pods/log",
            ),
            NotFound,
            "there is no Pod p in namespace team",
        ),
        (
            # What the program in the pod answers.
            Request("get", POD, "team", "p", "proxy"), 404, b"404 page not found", NotFound,
            "there is no Pod p in namespace team",
        ),
        (
            Request("get", PYTORCH_JOB, "team", "run"), 404,
            _status('pytorchjobs.kubeflow.org "run" not found', "NotFound", name="run", kind="pytorchjobs"), NotFound,
            "there is no PyTorchJob run in namespace team",
        ),
        (
            Request("get", LOCAL_QUEUE, "team", "line"), 404,
            _status('localqueues.kueue.x-k8s.io "line" not found', "NotFound", name="line", kind="localqueues"),
            NotFound,
            "there is no queue line in namespace team; see the queues with: kubectl -n team get localqueues",
        ),
        (
            CREATE, 403,
            _status(
                'pytorchjobs.kubeflow.org is forbidden: User "ana" cannot create resource "pytorchjobs" in API group '
                '"kubeflow.org" in the namespace "team"', "Forbidden",
            ),
            Forbidden,
            "ana may not create pytorchjobs.kubeflow.org in namespace team: ask for a Role with the verb create on "
            "pytorchjobs of API group kubeflow.org",
        ),
        (
            Request("list", POD), 403,
            _status('pods is forbidden: User "ana" cannot list resource "pods" in API group "" at the cluster scope'),
            Forbidden,
            "ana may not list pods in the whole cluster: ask for a Role with the verb list on pods",
        ),
        (
            Request("get", POD, "team", "p", "log"), 403,
            _status(
                'pods "p" is forbidden: User "ana" cannot get resource "pods/log" in API group "" in the namespace '
                '"team"'
            ),
            Forbidden,
            "ana may not get pods/log in namespace team: ask for a Role with the verb get on pods/log",
        ),
        (
            CREATE, 403, _status('pytorchjobs "run" is forbidden: exceeded quota: small', "Forbidden"), ClusterError,
            'the cluster refuses the PyTorchJob run in namespace team: pytorchjobs "run" is forbidden: exceeded quota: '
            "small",
        ),
        (
            CREATE, 401, _status("Unauthorized", "Unauthorized"), ClusterError,
            "the cluster does not accept the credentials of this kubeconfig; they may have expired: log in again",
        ),
        (
            CREATE, 409, _status('pytorchjobs.kubeflow.org "run" already exists', "AlreadyExists"), Conflict,
            "there is already a PyTorchJob run in namespace team; give the run another name, or delete that one",
        ),
        (
            CREATE, 422,
            _status(
                "PyTorchJob is invalid", "Invalid",
                causes=[{"field": "metadata.name", "message": 'Invalid value: "X"'}],
            ),
            ClusterError,
            'the cluster refuses the PyTorchJob run in namespace team: metadata.name: Invalid value: "X"',
        ),
        (
            CREATE, 500, _status(WEBHOOK, "InternalError"), ClusterError,
            "the training operator (kubectl get pods -A -l control-plane=kubeflow-training-operator) does not answer, "
            "so nothing was created: its webhook validator.pytorchjob.training-operator.kubeflow.org: connection "
            "refused",
        ),
        (
            Request("patch", PYTORCH_JOB, "team", "run"), 500, _status(WEBHOOK, "InternalError"), ClusterError,
            "the training operator (kubectl get pods -A -l control-plane=kubeflow-training-operator) does not answer, "
            "so nothing was changed: its webhook validator.pytorchjob.training-operator.kubeflow.org: connection "
            "refused",
        ),
        (
            Request("get", POD, "team", "p", "log"), 400,
            _status('container "pytorch" in pod "p" is waiting to start: ContainerCreating', "BadRequest"), NotYet,
            'container "pytorch" in pod "p" is waiting to start: ContainerCreating',
        ),
        (
            Request("get", POD, "team", "p"), 503, b"", ClusterError,
            "the API server cannot get the Pod p in namespace team (503): no reason given",
        ),
    ],
)  # fmt: skip
def test_refusals_are_one_sentence(
    request_: Request, status: int, body: bytes, kind: type[ClusterError], sentence: str
) -> None:
    error = refusal(status, body, request_)
    assert (type(error), str(error)) == (kind, sentence)


def _pods(count: int) -> list[dict[str, object]]:
    return [{"metadata": {"name": f"p{number}", "namespace": "team"}} for number in range(count)]


def test_long_lists_are_read_in_pages() -> None:
    server = ApiServer()
    server.put("/api/v1/namespaces/team/pods", *_pods(1201))
    cluster = server.cluster()
    found = cluster.list(POD, "team")
    assert len(found) == 1201
    assert found[0]["kind"] == "Pod"
    assert cluster.calls == 3
    assert len(cluster.list(POD, "team", pages=2)) == 1000


def test_paths_are_those_of_the_api() -> None:
    server = ApiServer()
    server.put("/apis/kubeflow.org/v1/namespaces/team/pytorchjobs", {"metadata": {"name": "a", "namespace": "team"}})
    server.put("/api/v1/nodes", {"metadata": {"name": "n"}})
    cluster = server.cluster()
    assert cluster.get(PYTORCH_JOB, "team", "a")["metadata"]["name"] == "a"
    assert cluster.find(PYTORCH_JOB, "team", "b") is None
    assert cluster.find(NODE, None, "n") is not None
    assert len(cluster.list(PYTORCH_JOB)) == 1
    assert server.lines == [
        "GET /apis/kubeflow.org/v1/namespaces/team/pytorchjobs/a",
        "GET /apis/kubeflow.org/v1/namespaces/team/pytorchjobs/b",
        "GET /api/v1/nodes/n",
        "GET /apis/kubeflow.org/v1/pytorchjobs?limit=500",
    ]


def test_contents_of_secrets_are_not_fetched() -> None:
    server = ApiServer()
    server.put("/api/v1/namespaces/team/secrets", {"metadata": {"name": "s3", "namespace": "team"}})
    cluster = server.cluster()
    assert cluster.exists(SECRET, "team", "s3")
    assert not cluster.exists(SECRET, "team", "gcs")
    assert all("PartialObjectMetadata" in message.accept for message in server.asked)


def test_a_dry_run_is_checked_strictly_and_creates_nothing() -> None:
    server = ApiServer()
    body = {"metadata": {"name": "a"}}
    server.cluster().create(PYTORCH_JOB, "team", body, is_dry_run=True)
    assert server.lines == [
        "POST /apis/kubeflow.org/v1/namespaces/team/pytorchjobs?fieldValidation=Strict&dryRun=All&fieldManager=cclm"
    ]
    assert not server.objects


def test_only_the_object_that_was_meant_is_deleted() -> None:
    server = ApiServer()
    server.put("/api/v1/namespaces/team/pods", *_pods(1))
    server.cluster().delete(POD, "team", "p0", grace_seconds=0, uid="u1")
    (message,) = server.asked
    assert json.loads(message.body or b"") == {
        "propagationPolicy": "Background", "gracePeriodSeconds": 0, "preconditions": {"uid": "u1"},
    }  # fmt: skip
    with pytest.raises(NotFound, match="there is no Pod p0 in namespace team"):
        server.cluster().delete(POD, "team", "p0")


def test_every_kind_has_the_path_of_its_api() -> None:
    vc = Resource("Job", "jobs", "v1alpha1", "batch.volcano.sh")
    assert vc.path("a", "b", "status") == "/apis/batch.volcano.sh/v1alpha1/namespaces/a/jobs/b/status"
    assert NODE.path("a", "b") == "/api/v1/nodes/b"


def _kubeconfig(tmp_path: Path, server: str) -> Path:
    file = tmp_path / "config"
    file.write_text(
        json.dumps(
            {
                "apiVersion": "v1", "kind": "Config", "current-context": "here",
                "clusters": [{"name": "c", "cluster": {"server": server}}],
                "users": [{"name": "u", "user": {"token": "secret"}}],
                "contexts": [
                    {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team"}},
                    {"name": "there", "context": {"cluster": "c", "user": "u"}},
                ],
            }
        )
    )  # fmt: skip
    return file


def _use(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(file))


def test_without_a_kubeconfig_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _use(monkeypatch, tmp_path / "none")
    with pytest.raises(Unreachable, match="there is no usable kubeconfig at .*none .*set KUBECONFIG to the file"):
        client.connect()


@pytest.mark.parametrize("text", ["a: [b", "no mapping", None], ids=["no YAML", "another file", "a folder"])
def test_a_kubeconfig_that_is_none_is_one_sentence(
    text: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "config"
    if text is None:
        file.mkdir()
    else:
        file.write_text(text)
    _use(monkeypatch, file)
    with pytest.raises(Unreachable, match="there is no usable kubeconfig at .*config .*it cannot be read: "):
        client.connect()


def test_a_context_and_its_namespace_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _use(monkeypatch, _kubeconfig(tmp_path, "https://127.0.0.1:1"))
    assert client.connect().namespace == "team"
    assert client.connect("there").namespace == "default"
    with pytest.raises(Unreachable, match="has no context nowhere; see them with: kubectl config get-contexts"):
        client.connect("nowhere")


def test_a_cluster_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _use(monkeypatch, _kubeconfig(tmp_path, "https://127.0.0.1:1"))
    with pytest.raises(
        Unreachable, match=r"the cluster at https://127.0.0.1:1 does not answer \(.*refused\): is it up"
    ):
        client.connect().list(POD, "team")
