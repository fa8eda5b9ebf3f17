"""TorchX's scheduler `kubernetes`, against an API server in memory."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from datetime import datetime

import pytest
import yaml
from torchx.schedulers.api import Stream
from torchx.specs import AppState

from cclm.errors import UserError
from k8s.client import Cluster
from k8s.objects import Object
from k8s.references import references_of
from k8s.scheduler import KubernetesScheduler, create_scheduler
from tests.unit.k8s.api_server import UNKNOWN_KIND, Answer, ApiServer, forbidden, recorded
from tests.unit.k8s.applications import application

PYTORCH, TRAIN = "/apis/kubeflow.org/v1", "/apis/trainer.kubeflow.org/v1alpha1"
KUEUE = "/apis/kueue.x-k8s.io/v1beta1"


def _server(*names: str) -> ApiServer:
    """A cluster with recorded jobs, their pods, events and Workloads. It has no TrainJobs."""
    server = ApiServer("team-a")
    for number, name in enumerate(names):
        seen = recorded(name)
        namespace = seen.job["metadata"]["namespace"]
        server.put(f"{PYTORCH}/namespaces/{namespace}/pytorchjobs", seen.job)
        server.put(f"/api/v1/namespaces/{namespace}/pods", *seen.pods)
        for event_number, event in enumerate(seen.events):
            server.objects[f"/api/v1/namespaces/{namespace}/events/e{number}-{event_number}"] = {
                "metadata": {},
                **event,
            }
        server.put(f"{KUEUE}/namespaces/{namespace}/workloads", *seen.workloads)
        server.put("/api/v1/nodes", *seen.nodes.values())
    server.answer(f"GET {TRAIN}", UNKNOWN_KIND)
    return server


def _scheduler(server: ApiServer) -> KubernetesScheduler:
    return KubernetesScheduler("torchx", lambda context: server.cluster())


def _unreachable(context: str | None) -> Cluster:
    raise AssertionError("nothing may be asked of a cluster")


def _submit(server: ApiServer, **options: object) -> str:
    scheduler = _scheduler(server)
    return str(scheduler.schedule(scheduler.submit_dryrun(application(), options)))


def _writes(server: ApiServer) -> list[str]:
    return [line for line in server.lines if not line.startswith("GET")]


def test_a_dry_run_is_yaml_and_asks_no_cluster() -> None:
    scheduler = KubernetesScheduler("torchx", _unreachable)
    info = scheduler.submit_dryrun(application(), {"namespace": "team-a"})
    job = yaml.safe_load(str(info))
    assert (job["kind"], job["metadata"]["namespace"]) == ("PyTorchJob", "team-a")
    assert info.request.manifest == job


def test_the_client_library_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys; from k8s.scheduler import create_scheduler; create_scheduler('torchx').run_opts(); "
        "sys.exit(any(name.partition('.')[0] in ('kubernetes', 'torch', 'docker') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_whatever_torchx_passes_at_creation_is_taken() -> None:
    scheduler = create_scheduler("torchx", f="value of TORCHX_FOO", **{"job_id": "x"})
    assert (scheduler.backend, scheduler.session_name) == ("kubernetes", "torchx")


def test_a_job_is_checked_by_the_cluster_and_then_created() -> None:
    server = _server()
    app_id = _submit(server)
    namespace, _, name = app_id.partition(":")
    assert namespace == "team-a"
    path = f"{PYTORCH}/namespaces/team-a/pytorchjobs"
    assert server.lines == [
        f"POST {path}?fieldValidation=Strict&dryRun=All&fieldManager=cclm",
        f"POST {path}?fieldValidation=Strict&fieldManager=cclm",
    ]
    assert f"{path}/{name}" in server.objects


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"secrets": ["s3"]}, "there is no secret s3 in namespace team-a, so nothing was created"),
        ({"config_maps": ["c"]}, "there is no config map c in namespace team-a"),
        ({"queue": "line"}, "there is no queue .LocalQueue of Kueue. line in namespace team-a"),
        ({"service_account": "who"}, "there is no ServiceAccount who in namespace team-a"),
        ({"priority_class": "high"}, "there is no PriorityClass high, so nothing was created; see what there is with"),
        ({"volumes": ["pvc/data:/data"]}, "there is no PersistentVolumeClaim data in namespace team-a"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_job_refers_to_must_exist(options: dict[str, object], sentence: str) -> None:
    server = _server()
    with pytest.raises(UserError, match=sentence):
        _submit(server, **options)
    assert not [line for line in _writes(server) if "dryRun" not in line]


def test_what_the_user_may_not_read_is_not_held_against_the_job() -> None:
    server = _server()
    server.answer("GET /api/v1/namespaces/team-a/secrets", forbidden("get", "secrets"))
    assert _submit(server, secrets=["s3"]).startswith("team-a:")


def test_kueue_that_is_not_installed_is_told_before_anything_is_created() -> None:
    server = _server()
    server.answer(f"GET {KUEUE}", UNKNOWN_KIND)
    with pytest.raises(UserError, match="install Kueue .*, or leave out the option queue"):
        _submit(server, queue="line")
    assert not [line for line in _writes(server) if "dryRun" not in line]


def test_optional_references_need_not_exist() -> None:
    pod: Object = {
        "containers": [
            {
                "envFrom": [{"secretRef": {"name": "a", "optional": True}}, {"configMapRef": {"name": "b"}}],
                "env": [
                    {"name": "X", "value": "1"},
                    {"name": "Y", "valueFrom": {"secretKeyRef": {"name": "c", "key": "k"}}},
                    {"name": "Z", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ],
            }
        ],
        "volumes": [{"name": "v", "secret": {"secretName": "d"}}, {"name": "w", "emptyDir": {}}],
        "imagePullSecrets": [{"name": "e"}],
    }
    job: Object = {"metadata": {}, "spec": {"template": {"spec": pod}}}
    assert sorted((item.resource.kind, item.name) for item in references_of(job)) == [
        ("ConfigMap", "b"), ("Secret", "c"), ("Secret", "d"), ("Secret", "e"),
    ]  # fmt: skip


def test_states_and_reasons_reach_torchx() -> None:
    found = _scheduler(_server("user-error")).describe("team-a:usererror")
    assert found is not None
    assert (found.state, found.num_restarts) == (AppState.FAILED, 0)
    assert found.msg == "replica 0-1 failed: exit code 2: configs/x.yaml: optimizer.lr must be positive"
    assert json.loads(found.structured_error_msg) == {"message": found.msg, "exit_code": 2}
    (role,) = found.roles
    assert (role.name, role.num_replicas, role.min_replicas) == ("pretrain", 2, 1)
    (status,) = found.roles_statuses
    assert [replica.state for replica in status.replicas] == [AppState.FAILED] * 2
    error = json.loads(status.replicas[0].structured_error_msg)["message"]
    assert error["errorCode"] == 2
    assert error["extraInfo"]["timestamp"] == int(datetime.fromisoformat("2026-11-30T11:30:27Z").timestamp())


def test_replicas_whose_pods_went_with_the_job_are_not_pending() -> None:
    found = _scheduler(_server("cancelled")).describe("team-a:running")
    assert found is not None and found.state is AppState.CANCELLED
    assert [replica.state for replica in found.roles_statuses[0].replicas] == [AppState.CANCELLED] * 2


def test_an_id_without_a_namespace_means_the_kubeconfigs() -> None:
    found = _scheduler(_server("running")).describe("running")
    assert found is not None and found.state is AppState.RUNNING


def test_a_job_that_does_not_exist_is_none() -> None:
    scheduler = _scheduler(_server("running"))
    assert scheduler.describe("team-a:other") is None
    assert not scheduler.exists("other:running")


def test_the_page_about_a_job_is_passed_on() -> None:
    server = _server("running")
    job = server.objects[f"{PYTORCH}/namespaces/team-a/pytorchjobs/running"]
    job["metadata"]["annotations"] = {"cclm.dev/ui-url": "https://grafana/d/x"}
    found = _scheduler(server).describe("team-a:running")
    assert found is not None and found.ui_url == "https://grafana/d/x"


def test_missing_rights_leave_out_what_they_hide() -> None:
    server = _server("unschedulable")
    server.answer("GET /api/v1/namespaces/team-a/events", forbidden("list", "events"))
    server.answer("GET /api/v1/nodes", forbidden("list", "nodes"))
    found = _scheduler(server).describe("team-a:big")
    assert found is not None
    assert found.msg.startswith("replica 0-1: no node has room: 0/3 nodes are available")


def test_jobs_are_listed_in_all_namespaces() -> None:
    listed = _scheduler(_server("running", "user-error", "kueue-waiting", "succeeded")).list()
    assert {entry.app_id: entry.state for entry in listed} == {
        "team-a:running": AppState.RUNNING,
        "team-a:usererror": AppState.FAILED,
        "team-b:second": AppState.PENDING,
        "team-a:done": AppState.SUCCEEDED,
    }
    moments = [recorded(name).job["metadata"]["creationTimestamp"] for name in ("running", "kueue-waiting")]
    assert moments == sorted(moments) and listed[-1].app_id == "team-b:second"


def test_jobs_are_listed_in_the_own_namespace_where_others_are_forbidden() -> None:
    server = _server("running", "kueue-waiting")
    server.answer(r"GET /apis/kubeflow.org/v1/pytorchjobs", forbidden("list", "pytorchjobs"))
    assert [entry.app_id for entry in _scheduler(server).list({"namespace": "ignored"})] == ["team-a:running"]


def test_a_cluster_without_any_operator_says_which_is_missing() -> None:
    server = _server()
    server.answer(f"GET {PYTORCH}", UNKNOWN_KIND)
    for ask in (lambda: _scheduler(server).list(), lambda: _scheduler(server).describe("team-a:x")):
        with pytest.raises(UserError, match="this cluster has no pytorchjobs.kubeflow.org"):
            ask()


def _fleet() -> ApiServer:
    """200 nodes and 50 jobs with two pods each, one of which finds no room."""
    server = _server()
    seen = recorded("unschedulable")
    for number in range(50):
        job, pods = copy.deepcopy(seen.job), copy.deepcopy(list(seen.pods))
        job["metadata"].update(name=f"job-{number}", uid=f"uid-{number}")
        for pod in pods:
            pod["metadata"]["name"] = pod["metadata"]["name"].replace("big", f"job-{number}")
            pod["metadata"]["labels"]["training.kubeflow.org/job-name"] = f"job-{number}"
        server.put(f"{PYTORCH}/namespaces/team-a/pytorchjobs", job)
        server.put("/api/v1/namespaces/team-a/pods", *pods)
    node = next(iter(seen.nodes.values()))
    server.put("/api/v1/nodes", *({**node, "metadata": {"name": f"node-{number}"}} for number in range(200)))
    return server


def test_a_fleet_is_listed_in_three_calls() -> None:
    server = _fleet()
    assert len(_scheduler(server).list()) == 50
    assert len(server.asked) == 3


def test_a_job_of_a_fleet_is_described_in_five_calls() -> None:
    server = _fleet()
    found = _scheduler(server).describe("team-a:job-7")
    assert found is not None and "498 too few" in found.msg
    # The job, its pods, events about it, events about pods, nodes.
    assert len(server.asked) == 5


def test_every_source_is_asked_once() -> None:
    """A job with a queue, a suspicious pod, and metrics: job, pods, two of events, Workloads, node, metrics."""
    server = _server("node-lost")
    path = f"{PYTORCH}/namespaces/team-a/pytorchjobs/lost"
    server.objects[path]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "line"
    pod = server.objects["/api/v1/namespaces/team-a/pods/lost-worker-1"]
    next(entry for entry in pod["status"]["conditions"] if entry["type"] == "Ready")["status"] = "True"
    body = b'cclm_train_step 7\ncclm_run_restarts{cause="membership"} 0\n'
    server.answer("GET .*/proxy/metrics", Answer(200, body))
    found = _scheduler(server).describe("team-a:lost")
    assert found is not None and "step 7" in found.msg
    assert len(server.asked) == 7


def _serving_metrics() -> ApiServer:
    """The job `running`, whose pods name the port of their metrics in a variable."""
    server = _server("running")
    pods = [entry for path, entry in server.objects.items() if "/pods/running-worker-" in path]
    assert len(pods) > 1
    for pod in pods:
        for container in pod["spec"]["containers"]:
            container.pop("ports", None)
            container["env"] = [{"name": "CCLM_METRICS_PORT", "value": "9400"}]
    return server


def test_another_pod_is_asked_where_one_hangs_and_a_trainjob_has_its_port_in_a_variable() -> None:
    server = _serving_metrics()
    server.answer("GET .*running-worker-0:9400/proxy/metrics", Answer(503, b"{}"))
    server.answer("GET .*running-worker-1:9400/proxy/metrics", Answer(200, b"cclm_train_step 7\n"))
    found = _scheduler(server).describe("team-a:running")
    assert found is not None and "step 7" in found.msg


OF_NODE_0 = Answer(200, b'cclm_train_step 7\ncclm_run_restarts{cause="killed"} 3\n')


@pytest.mark.parametrize("other", [OF_NODE_0, Answer(503, b"{}")])
def test_where_the_first_pod_is_not_node_0_the_next_tells_the_restarts_of_the_run(other: Answer) -> None:
    server = _serving_metrics()
    server.answer("GET .*running-worker-0:9400/proxy/metrics", Answer(200, b"cclm_train_step 7\n"))
    server.answer("GET .*running-worker-1:9400/proxy/metrics", other)
    found = _scheduler(server).describe("team-a:running")
    assert found is not None
    assert ("started again 3 times: killed 3" if other.status == 200 else "step 7") in found.msg


def test_cancelling_suspends_the_job_and_says_so_in_its_record() -> None:
    server = _server("running")
    _scheduler(server).cancel("team-a:running")
    job = server.objects[f"{PYTORCH}/namespaces/team-a/pytorchjobs/running"]
    assert job["spec"]["runPolicy"]["suspend"] is True
    assert datetime.fromisoformat(job["metadata"]["annotations"]["cclm.dev/cancelled"])
    assert len(_writes(server)) == 1


def test_cancelling_a_job_of_kueue_makes_its_workload_inactive() -> None:
    """Kueue would undo a suspension."""
    server = _server("kueue-waiting")
    _scheduler(server).cancel("team-b:second")
    job = server.objects[f"{PYTORCH}/namespaces/team-b/pytorchjobs/second"]
    assert "cclm.dev/cancelled" in job["metadata"]["annotations"]
    inactive = [
        item["metadata"]["name"]
        for path, item in server.objects.items()
        if "/workloads/" in path and item["spec"]["active"] is False
    ]
    assert inactive == ["pytorchjob-second-ba911"]
    assert "suspend" not in str(json.loads(next(m for m in server.asked if m.method == "PATCH").body or b""))


def test_deleting_removes_the_record() -> None:
    server = _server("running")
    scheduler = _scheduler(server)
    scheduler.delete("team-a:running")
    assert scheduler.describe("team-a:running") is None
    scheduler.delete("team-a:running")
    (delete,) = (message for message in server.asked if message.method == "DELETE")
    assert json.loads(delete.body or b"")["preconditions"] == {"uid": recorded("running").job["metadata"]["uid"]}


def test_a_log_is_one_replicas() -> None:
    server = _server("running")
    server.answer(
        "GET /api/v1/namespaces/team-a/pods/running-worker-1/log", Answer(200, b"2026-11-30T11:40:00.1Z step 1\n")
    )
    scheduler = _scheduler(server)
    assert [*scheduler.log_iter("team-a:running", "pretrain", 1, streams=Stream.COMBINED)] == ["step 1\n"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"k": 2}, "team-a:running has no replica 2: they are numbered 0 to 1"),
        ({"role_name": "other"}, "team-a:running has no role other; its only role is pretrain"),
        ({"streams": Stream.STDERR}, "leave out --streams"),
        ({"regex": "["}, "not a regular expression"),
        ({"app_id": "team-a:other"}, "there is no job team-a:other; see the jobs with: torchx list -s kubernetes"),
    ],
    ids=["replica", "role", "streams", "regex", "job"],
)
def test_a_log_that_cannot_be_read_is_one_sentence(arguments: dict[str, object], sentence: str) -> None:
    scheduler = _scheduler(_server("running"))
    with pytest.raises(UserError, match=sentence):
        scheduler.log_iter(**{"app_id": "team-a:running", "role_name": "pretrain", **arguments})


@pytest.mark.parametrize(
    ("name", "nodes", "sentence"),
    [
        ("running", 0, "running was started for 1 to 2 nodes, not 0; to stop it, use torchx cancel"),
        ("running", 3, "running was started for 1 to 2 nodes, not 3: run it again with another -j"),
        ("succeeded", 1, "done is over .succeeded., so it cannot be resized"),
        ("cancelled", 1, "running is over .cancelled., so it cannot be resized"),
        ("killed-again", 1, "flaky was started with a fixed size of 1"),
    ],
)
def test_sizes_that_would_break_a_job_are_refused(name: str, nodes: int, sentence: str) -> None:
    seen = recorded(name)
    server = _server(name)
    with pytest.raises(UserError, match=sentence):
        _scheduler(server).resize(f"team-a:{seen.job['metadata']['name']}", nodes)
    assert not _writes(server)


def test_a_job_of_kueue_is_not_resized() -> None:
    server = _server("kueue-waiting")
    server.objects[f"{PYTORCH}/namespaces/team-b/pytorchjobs/second"]["spec"]["elasticPolicy"]["minReplicas"] = 1
    with pytest.raises(UserError, match="Kueue would stop all its pods and queue it again"):
        _scheduler(server).resize("team-b:second", 1)


def test_a_resize_changes_the_number_of_pods_only() -> None:
    server = _server("running")
    _scheduler(server).resize("team-a:running", 1)
    job = server.objects[f"{PYTORCH}/namespaces/team-a/pytorchjobs/running"]
    expected = copy.deepcopy(recorded("running").job)
    expected["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] = 1
    assert job == expected
