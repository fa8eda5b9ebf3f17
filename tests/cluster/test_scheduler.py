"""What a user of `torchx` sees of jobs on a real cluster: states with their reasons, logs, ends, and refusals."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cluster import gobuild, talkers
from tests.cluster.breaker import breaker
from tests.cluster.common import wait_for
from tests.cluster.kubectl import Kubectl, documents
from tests.cluster.space import Space
from tests.cluster.talkers import FOREVER, torchx

pytestmark = pytest.mark.cluster


def _numbers(lines: list[str]) -> list[int]:
    return [int(line.split()[1]) for line in lines if line.startswith("line ")]


def test_a_job_is_seen_cancelled_and_deleted(space: Space, tmp_path: Path) -> None:
    job = talkers.start(space, tmp_path, FOREVER, most=2, least=1)
    assert job.handle.startswith(f"kubernetes://torchx/{space.name}:talk-")
    job.wait_status("State: RUNNING", "*talker[0]:RUNNING", "talker[1]:RUNNING")
    assert re.search(rf"{re.escape(job.handle)}\s+RUNNING", torchx(space, "list", "-s", "kubernetes").out)
    wait_for(
        lambda: f"line 1 of {job.pod(1)}\n" in torchx(space, "log", f"{job.handle}/talker/1").out,
        what="the first line of talker 1", timeout=120,
    )  # fmt: skip

    with job.followed(tmp_path) as log:
        for index in (0, 1):
            log.wait_line(f"line 1 of {job.pod(index)}")
        assert torchx(space, "cancel", job.handle).code == 0
        assert {index: lines[-1] for index, lines in log.lines().items()} == {0: "saving", 1: "saving"}
    assert "cancelled at" in job.wait_status("State: CANCELLED")
    # It is so when the last container has ended; the pods are removed after that.
    wait_for(lambda: not space.api.get("pod"), what="the end of all pods", timeout=120)
    assert job.job() is not None

    assert torchx(space, "delete", job.handle).code == 0
    job.space.api.wait("pytorchjob", job.name, lambda item: item is None, what="the end of the record")
    again = torchx(space, "delete", job.handle)
    assert again.code == 2 and again.err.endswith(f"error: there is no job {space.name}:{job.name}\n")
    assert torchx(space, "status", job.handle).code == 1


def test_a_followed_log_loses_and_repeats_no_line_when_pods_are_replaced(space: Space, tmp_path: Path) -> None:
    job = talkers.start(space, tmp_path, FOREVER, most=3, least=1)
    job.wait_running(3)
    with job.followed(tmp_path) as log:
        for index in range(3):
            log.wait_line(f"line 5 of {job.pod(index)}")
        space.api("delete", "pod", job.pod(1), "--wait=false")
        log.wait_line(f"line 5 of {job.pod(1)}", times=2)
        space.api("delete", "pod", job.pod(0), "--grace-period=0", "--force")
        log.wait_line(f"line 5 of {job.pod(0)}", times=2)
        job.wait_status("replica 1 was started again once: deleted, evicted or drained")  # events come later
        assert torchx(space, "cancel", job.handle).code == 0
        lines = log.lines()
    assert lines[2][-1] == "saving"
    assert _numbers(lines[2]) == list(range(1, len(lines[2])))
    for replica, leaves in ((0, 1), (1, 2)):
        # The first pod's lines up to its end, then the second one's from its beginning.
        numbers = _numbers(lines[replica])
        (cut,) = (place for place, number in enumerate(numbers) if place and number == 1)
        assert numbers[:cut] == list(range(1, cut + 1))
        assert numbers[cut:] == list(range(1, len(numbers) - cut + 1))
        # A pod that is killed by force may not come to say that it saves.
        assert lines[replica].count("saving") >= leaves


def test_a_followed_log_loses_and_repeats_no_line_when_connections_break(space: Space, tmp_path: Path) -> None:
    job = talkers.start(space, tmp_path, FOREVER, most=2, least=1)
    job.wait_running(2)
    server = urlsplit(str(space.api("config", "view", "-o", "jsonpath={.clusters[0].cluster.server}")))
    with breaker(str(server.hostname), int(server.port or 443)) as door:
        text = Path(space.api.kubeconfig).read_text().replace(f":{server.port}", f":{door.port}")
        (tmp_path / "by-the-door").write_text(text)
        with job.followed(tmp_path, KUBECONFIG=str(tmp_path / "by-the-door")) as log:
            for number in range(1, 11):
                log.wait_line(f"line {20 * number} of {job.pod(number % 2)}")
                # Its connections may be those of the last cut, whose end it has not come to yet.
                wait_for(lambda: door.cut() > 0, what="a new connection", timeout=120)
            log.wait_line(f"line 230 of {job.pod(0)}")
            log.wait_line(f"line 230 of {job.pod(1)}")
            assert torchx(space, "cancel", job.handle).code == 0
            lines = log.lines()
    for index in (0, 1):
        assert lines[index][-1] == "saving"
        assert _numbers(lines[index]) == list(range(1, len(lines[index])))


def test_lines_are_chosen_by_time_and_text(space: Space, tmp_path: Path) -> None:
    job = talkers.start(space, tmp_path, "echo early; sleep 8; echo late; echo done; sleep 3; exit 0")
    job.wait_status("State: SUCCEEDED")
    handle = f"{job.handle}/talker/0"
    everything = torchx(space, "log", handle).out
    assert [line.split()[-1] for line in everything.splitlines()] == ["early", "late", "done"]
    assert [line.split()[-1] for line in torchx(space, "log", "--regex", "^d", handle).out.splitlines()] == ["done"]
    ended = job.job()["status"]["completionTime"]
    created = job.job()["metadata"]["creationTimestamp"]  # `startTime` is set after the pod is made
    assert torchx(space, "log", "--since", ended, handle).out == ""
    assert "early" not in torchx(space, "log", "--until", created, handle).out


def test_a_users_error_is_told_and_not_tried_again(space: Space, tmp_path: Path) -> None:
    script = "printf 'configs/x.yaml: optimizer.lr must be positive' > /dev/termination-log; exit 2"
    job = talkers.start(space, tmp_path, script)
    status = job.wait_status("State: FAILED")
    assert "Msg: replica 0 failed: exit code 2: configs/x.yaml: optimizer.lr must be positive" in status
    assert "*talker[0]:FAILED (exitcode: 2)" in status

    def created() -> list[int]:
        return [event["count"] for event in space.api.get("event") if event["reason"] == "SuccessfulCreatePod"]

    wait_for(created, what="the event of the pod's creation", timeout=120)
    assert created() == [1]


def test_restarts_are_told_with_their_cause(space: Space, tmp_path: Path) -> None:
    script = "printf 'rank 0 was killed by SIGKILL' > /dev/termination-log; sleep 1; exit 137"
    job = talkers.start(space, tmp_path, script)
    # The operator tells a message only if it sees the container's end before the pod's, so there may be causes without.
    told = r"replica 0 was started again (\d+) times: .*exit code 137: rank 0 was killed by SIGKILL"
    status = job.wait_status_like(told)
    assert f"Num Restarts: {re.search(told, status)[1]}\n" in status  # type: ignore[index]
    torchx(space, "cancel", job.handle)


def test_a_job_too_large_says_by_how_much(space: Space, tmp_path: Path) -> None:
    job = talkers.start(space, tmp_path, FOREVER, most=2, least=2, cpu=500)
    told = r"replica 0-1: no node has room: .*; it asks for cpu 500, the largest node has \d+: \d+ too few"
    assert "State: PENDING" in job.wait_status_like(told)


def test_pods_that_are_refused_are_told(space: Space, tmp_path: Path) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    space.api.apply(quota)
    space.api.wait("resourcequota", "none", lambda item: item.get("status", {}).get("hard"), what="the quota")
    job = talkers.start(space, tmp_path, FOREVER)
    job.wait_status(f'pods "{job.pod(0)}" is forbidden: exceeded quota: none')
    space.api("delete", "resourcequota", "none")
    job.wait_status("State: RUNNING", timeout=300)  # the operator tries again after ever longer pauses


def test_a_restricted_namespace_takes_the_job_and_refuses_another_kind_with_the_reason(
    space: Space, tmp_path: Path
) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    Kubectl(space.api.kubeconfig)("label", "namespace", space.name, label)
    talkers.start(space, tmp_path, FOREVER).wait_status("State: RUNNING")
    other = talkers.start(space, tmp_path, FOREVER, options="restricted=false")
    other.wait_status("its pods are refused", 'violates PodSecurity "restricted:latest"')


def test_a_job_is_resized_within_its_bounds_only(space: Space, tmp_path: Path) -> None:
    job = talkers.start(space, tmp_path, FOREVER, least=1, most=2)
    job.wait_status("*talker[0]:RUNNING", "talker[1]:RUNNING")
    for nodes in ("0", "3"):
        refused = torchx(space, "resize", job.handle, nodes)
        assert refused.code == 2 and f"{job.name} was started for 1 to 2 nodes, not {nodes}" in refused.err
    assert torchx(space, "resize", job.handle, "1").code == 0
    wait_for(lambda: "talker[1]" not in job.wait_status("State: RUNNING"), what="the end of talker 1", timeout=120)
    assert torchx(space, "resize", job.handle, "2").code == 0
    job.wait_status("*talker[0]:RUNNING", "talker[1]:RUNNING")


def _line(space: Space) -> None:
    """A queue with quota for two pods of one core."""
    api, queue = "kueue.x-k8s.io/v1beta1", space.name
    resources = [{"name": "cpu", "nominalQuota": "2"}, {"name": "memory", "nominalQuota": "100Gi"}]
    groups = [{"coveredResources": ["cpu", "memory"], "flavors": [{"name": queue, "resources": resources}]}]
    selector = {"matchLabels": {"kubernetes.io/metadata.name": space.name}}
    spec = {"namespaceSelector": selector, "resourceGroups": groups}
    space.api.apply(
        {"apiVersion": api, "kind": "ResourceFlavor", "metadata": {"name": queue}},
        {"apiVersion": api, "kind": "ClusterQueue", "metadata": {"name": queue}, "spec": spec},
        {"apiVersion": api, "kind": "LocalQueue", "metadata": {"name": "line"}, "spec": {"clusterQueue": queue}},
    )


def test_a_job_in_a_queue_says_its_place_and_then_runs(space: Space, tmp_path: Path) -> None:
    space.need("kueue")
    _line(space)
    try:
        first = talkers.start(space, tmp_path, FOREVER, least=1, most=2, cpu=1, options="queue=line")
        first.wait_status("State: RUNNING")
        second = talkers.start(space, tmp_path, FOREVER, cpu=1, options="queue=line")
        second.wait_status("State: PENDING", "place 1 of 1 of queue line", "insufficient unused quota for cpu")
        refused = torchx(space, "resize", first.handle, "1")
        assert refused.code == 2 and f"{first.name} is in Kueue's queue line: Kueue would stop all" in refused.err
        assert torchx(space, "cancel", first.handle).code == 0
        first.wait_status("State: CANCELLED", "cancelled at")
        # Kueue leaves it alone, and its quota is free.
        second.wait_status("State: RUNNING")
        assert "State: CANCELLED" in first.status()
        space.api("delete", "pytorchjob", "--all")
    finally:
        for kind in ("clusterqueue", "resourceflavor"):
            space.api.attempt("delete", kind, space.name, "--wait=false")


@pytest.fixture
def runtime(space: Space) -> Iterator[str]:
    """Trainer's own runtime for PyTorch, under a name of this test."""
    space.need("trainer")
    file = gobuild.files_of("trainer") / "manifests" / "base" / "runtimes" / "torch_distributed.yaml"
    (found,) = documents(file.read_text())
    found["metadata"]["name"] = name = f"torch-{space.name[-6:]}"
    space.api.apply(found)
    try:
        yield name
    finally:
        space.api("delete", "clustertrainingruntime", name, "--wait=false")


def test_a_train_job_is_seen_and_cancelled_like_any_other(space: Space, tmp_path: Path, runtime: str) -> None:
    job = talkers.start(space, tmp_path, FOREVER, least=2, most=2, options=f"backend=trainjob,runtime={runtime}")
    job.wait_status("State: RUNNING", "*talker[0]:RUNNING", "talker[1]:RUNNING")
    assert re.search(rf"{re.escape(job.handle)}\s+RUNNING", torchx(space, "list", "-s", "kubernetes").out)
    refused = torchx(space, "resize", job.handle, "1")
    assert refused.code == 2 and "is a TrainJob, whose size is fixed" in refused.err
    with job.followed(tmp_path) as log:
        for index in (0, 1):
            log.wait_line(f"line 3 of {job.name}-node-0-{index}")
        assert torchx(space, "cancel", job.handle).code == 0
        lines = log.lines()
    for index in (0, 1):
        assert f"-node-0-{index}" in lines[index][0]
        assert _numbers(lines[index]) == list(range(1, len(lines[index])))
        assert lines[index][-1] == "saving"
    job.wait_status("State: CANCELLED", "cancelled at")
    assert torchx(space, "delete", job.handle).code == 0
    assert torchx(space, "status", job.handle).code == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("secrets=none", "there is no secret none in namespace NAMESPACE, so nothing was created"),
        ("queue=none", "none in namespace NAMESPACE, so nothing was created"),
        ("priority_class=none", "there is no PriorityClass none, so nothing was created"),
        ("volumes=pvc/none:/data", "there is no PersistentVolumeClaim none in namespace NAMESPACE"),
        ("namespace=none", "there is no namespace none; choose another"),
        ("context=none", "has no context none; see them with: kubectl config get-contexts"),
    ],
    ids=lambda value: value.partition("=")[0],
)
def test_what_does_not_exist_is_told_before_anything_is_created(
    space: Space, tmp_path: Path, options: str, sentence: str
) -> None:
    if options.startswith("queue"):
        space.need("kueue")
    said = talkers.submit(space, tmp_path, FOREVER, options=options)
    assert said.code == 2
    (line,) = (line for line in said.err.splitlines() if line.startswith("error:"))
    assert sentence.replace("NAMESPACE", space.name) in line
    assert "Traceback" not in said.err and not space.api.get("pytorchjob")


def _kubeconfig_of_nobody(space: Space, folder: Path) -> Path:
    """The same cluster with a user that has no rights."""
    space.api("create", "serviceaccount", "nobody")
    token = space.api("create", "token", "nobody").strip()
    config = json.loads(space.api("config", "view", "--raw", "-o", "json"))
    config["users"] = [{"name": "nobody", "user": {"token": token}}]
    for entry in config["contexts"]:
        entry["context"].update(user="nobody", namespace=space.name)
    file = folder / "nobody"
    file.write_text(json.dumps(config))
    return file


def test_missing_rights_are_told_by_verb_and_resource(space: Space, tmp_path: Path) -> None:
    file = str(_kubeconfig_of_nobody(space, tmp_path))
    user = f"system:serviceaccount:{space.name}:nobody"
    said = talkers.submit(space, tmp_path, FOREVER, KUBECONFIG=file)
    assert (said.code, said.out) == (2, "")
    assert f"error: {user} may not create pytorchjobs.kubeflow.org in namespace {space.name}" in said.err
    listed = torchx(space, "list", "-s", "kubernetes", KUBECONFIG=file)
    assert listed.code == 2 and f"{user} may not list" in listed.err


def test_without_a_cluster_one_sentence_says_why(space: Space, tmp_path: Path) -> None:
    none = talkers.submit(space, tmp_path, FOREVER, KUBECONFIG=str(tmp_path / "none"))
    assert none.code == 2 and "there is no usable kubeconfig at" in none.err
    text = Path(space.api.kubeconfig).read_text()
    (tmp_path / "away").write_text(re.sub(r"server: .*|\"server\": *\"[^\"]*\"", "server: https://127.0.0.1:1", text))
    away = talkers.submit(space, tmp_path, FOREVER, KUBECONFIG=str(tmp_path / "away"))
    assert away.code == 2 and "the cluster at https://127.0.0.1:1 does not answer" in away.err
    assert "Traceback" not in none.err + away.err


def test_a_dry_run_needs_no_cluster_and_is_what_kubectl_takes(space: Space, tmp_path: Path) -> None:
    component = tmp_path / "talk.py"
    talkers.submit(space, tmp_path, "exit 0", options="priority_class=none")  # writes the component
    said = torchx(
        space, "run", "-s", "kubernetes", "--dryrun", f"{component}:talk", "--script", "exit 0",
        KUBECONFIG=os.devnull, DOCKER_HOST="unix:///nowhere",
    )  # fmt: skip
    assert said.code == 0
    words = space.api("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=said.out)
    assert re.fullmatch(r"pytorchjob.kubeflow.org/talk-\w+ created \(server dry run\)\n", words)
    assert not space.api.get("pytorchjob")


def test_a_log_waits_for_a_pod_that_is_not_there_yet(space: Space, tmp_path: Path) -> None:
    job = talkers.start(space, tmp_path, FOREVER, options="node_selectors=place:there")
    with job.followed(tmp_path, 0) as log:
        job.wait_status("no node has room")
        space.api("label", "node", "node-1", "place=there")
        try:
            log.wait_line(f"line 1 of {job.pod(0)}")
        finally:
            space.api("label", "node", "node-1", "place-")
        assert torchx(space, "cancel", job.handle).code == 0
        assert log.lines()[0][-1] == "saving"
