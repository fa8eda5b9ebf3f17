"""What is said of jobs, from objects that a real cluster gave (Kubernetes 1.33, training-operator 1.9, Kueue 0.15).

In `node-lost` and `node-dead` the pods' states were written by hand, as no kubelet ran on the node; what became of
them when the node fell silent is real.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from k8s.replicas import State
from k8s.restarts import exit_words
from k8s.state import Description, describe, job_state, largest_size, replicas_of, smallest_size
from tests.unit.k8s.api_server import recorded

KILLED = "deleted, evicted or drained, last at 11:31:08 UTC"
QUOTA = (
    "couldn't assign flavors to pod set worker: insufficient unused quota for cpu in flavor default, 100m more needed"
)
PREEMPTED = "preempted by a job of higher priority; it saved and left, and resumes from its checkpoint; now"
LEAVING = "replica 0-1: saves and leaves: its pod is being deleted"
P, R, S, F = State.PENDING, State.RUNNING, State.SUCCEEDED, State.FAILED


@pytest.mark.parametrize(
    ("name", "state", "replicas", "lines"),
    [
        ("running", R, [R, R], []),
        ("succeeded", S, [S], []),
        (
            "user-error", F, [F, F],
            ["replica 0-1 failed: exit code 2: configs/x.yaml: optimizer.lr must be positive"],
        ),
        (
            "unschedulable", P, [P, P],
            [
                "replica 0-1: no node has room: 0/3 nodes are available: 1 node(s) had untolerated taint "
                "{node-role.kubernetes.io/control-plane: }, 2 Insufficient cpu; it asks for cpu 500, the largest node "
                "has 2: 498 too few"
            ],
        ),
        (
            "no-image", P, [P],
            [
                'replica 0: image registry.example/none:1 cannot be pulled: failed to do request: Head '
                '"https://registry.example/v2/none/manifests/1": dial tcp: lookup registry.example on '
                "10.255.255.53:53: read udp 10.200.0.12:54149->10.255.255.53:53: i/o timeout"
            ],
        ),
        ("no-secret", P, [P], ['replica 0: CreateContainerConfigError: secret "absent" not found']),
        (
            "over-quota", State.SUBMITTED, [P],
            [
                'its pods are refused (tried 13 times): pods "overquota-worker-0" is forbidden: exceeded quota: small, '
                "requested: pods=1, used: pods=0, limited: pods=0"
            ],
        ),
        (
            "killed-again", R, [R],
            [
                "replica 0 was started again 4 times: exit code 137: rank 0 was killed by SIGKILL (4 times), last at "
                "11:30:52 UTC"
            ],
        ),
        (
            "out-of-memory", P, [F],
            [
                "replica 0 was started again 5 times: out of memory (OOMKilled): raise the memory limit, or lower what "
                "the run needs (6 times), last at 11:31:03 UTC"
            ],
        ),
        (
            "being-deleted", R, [P, R],
            [
                "replica 0: its container is being started on node node-1",
                f"replica 0 was started again once: {KILLED}",
            ],
        ),
        ("deleted", R, [R, R], [f"replica 0 was started again once: {KILLED}"]),
        ("evicted", R, [R, R], [f"replica 1 was started again once: {KILLED}"]),
        ("cancelling", R, [R, R], ["cancelled at 2026-11-30T11:00:00Z; 2 of its pods still save and leave", LEAVING]),
        ("cancelled", State.CANCELLED, [P, P], ["cancelled at 2026-11-30T11:00:00Z"]),
        ("kueue-waiting", P, [P, P], [f"place 1 of 2 of queue line: {QUOTA}"]),
        ("kueue-preempting", R, [R, R], [f"{PREEMPTED} place 1 of 3 of queue line: {QUOTA}", LEAVING]),
        ("kueue-preempted", P, [P, P], [f"{PREEMPTED} place 1 of 3 of queue line: {QUOTA}"]),
        (
            "kueue-resumed", R, [R, R],
            [
                f"replica {index} was started again once: stopped by Kueue: Preempted to accommodate a workload, last "
                "at 11:33:24 UTC"
                for index in (0, 1)
            ],
        ),
        ("kueue-cancelled", State.CANCELLED, [P, P], ["cancelled at 2026-11-30T11:00:00Z"]),
        (
            "refused-by-kubelet", P, [P],
            [
                "the node refuses its pods again and again (6 times, replica 0): OutOfcpu: Node didn't have enough "
                "resource: cpu, requested: 500000, used: 70, capacity: 2000; the operator would go on for ever: cancel "
                "the job and run it elsewhere",
                "replica 0 was started again 11 times: refused by its node (OutOfcpu) (6 times), last at 11:30:27 UTC",
            ],
        ),
        (
            "node-lost", P, [R, R],
            ["replica 0-1: node gpu-7 does not answer; its pod is replaced when the node is given up"],
        ),
        (
            "node-dead", P, [P, P],
            [
                "replica 0-1: waits for dead node gpu-7: Kubernetes makes no new pod while the old one may still run "
                "there. It goes on when the node comes back, or its Node object is deleted. If the machine is off for "
                "certain, clear it with: kubectl taint node gpu-7 "
                "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute, or: kubectl -n team-a delete pod -l "
                "training.kubeflow.org/job-name=lost --field-selector spec.nodeName=gpu-7 --force --grace-period=0"
            ],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_recorded_jobs_are_described(name: str, state: State, replicas: list[State], lines: list[str]) -> None:
    found = describe(recorded(name))
    assert (found.state, [replica.state for replica in found.replicas], found.lines()) == (state, replicas, lines)


def test_pods_that_a_namespace_does_not_admit_are_told_with_the_reason() -> None:
    """The job's own status stays empty for ever."""
    (line,) = describe(recorded("pod-security")).lines()
    assert line.startswith('its pods are refused (tried 13 times): pods "insecure-worker-0" is forbidden: violates')
    assert "allowPrivilegeEscalation != false" in line


def _failed_without_pods() -> Description:
    return describe(replace(recorded("user-error"), pods=()))


def test_the_sentence_of_a_failure_outlives_the_pod() -> None:
    found = _failed_without_pods()
    assert found.failure is not None and found.failure.exit_code == 2
    assert found.lines()[0] == (
        "pod usererror-worker-0 failed: exit code 2: configs/x.yaml: optimizer.lr must be positive"
    )


def test_a_failure_whose_events_are_gone_is_told_by_the_condition() -> None:
    seen = recorded("user-error")
    found = describe(replace(seen, pods=(), events=()))
    assert found.lines() == ['job "usererror" is failing because "Worker" replica(s) failed.']


def test_of_several_failures_the_one_that_the_operator_took_for_final_is_told() -> None:
    seen = copy.deepcopy(recorded("user-error"))
    ended = seen.pods[0]["status"]["containerStatuses"][0]["state"]["terminated"]
    ended.update(exitCode=200, message="lost another node")
    assert describe(seen).lines() == ["replica 1 failed: exit code 2: configs/x.yaml: optimizer.lr must be positive"]


def test_an_exit_code_without_a_message_is_explained() -> None:
    seen = copy.deepcopy(recorded("user-error"))
    for pod in seen.pods:
        del pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"]
    (line,) = describe(seen).lines()
    assert line.startswith("replica 0-1 failed: exit code 2: config, data, weights or command line")


def test_out_of_memory_counts_before_the_exit_code() -> None:
    """The first process of a container may end with 0 although one of its children was killed for memory."""
    seen = copy.deepcopy(recorded("succeeded"))
    (pod,) = seen.pods
    pod["status"]["phase"] = "Failed"
    pod["status"]["containerStatuses"][0]["state"]["terminated"].update(exitCode=1, reason="OOMKilled")
    (replica,) = describe(seen).replicas
    assert replica.failure is not None and "out of memory" in replica.failure.sentence


def test_a_job_that_no_operator_takes_up_is_told_after_a_while() -> None:
    seen = recorded("running")
    job = copy.deepcopy(seen.job)
    job["status"] = {}
    created = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
    early = describe(replace(seen, job=job, pods=(), events=(), now=created + timedelta(seconds=10)))
    late = describe(replace(seen, job=job, pods=(), events=(), now=created + timedelta(seconds=45)))
    assert (early.state, early.lines()) == (State.SUBMITTED, ["replica 0-1: its pod is not created yet"])
    assert late.lines()[0] == (
        "the training operator does not answer: nothing has happened for 45 s; see kubectl get pods -A "
        "-l control-plane=kubeflow-training-operator"
    )


def test_a_job_that_kueue_does_not_know_is_told() -> None:
    (line, *_) = describe(replace(recorded("kueue-waiting"), workloads=())).lines()
    assert line.startswith("Kueue has not taken the job into queue line yet")


def test_without_the_right_to_read_workloads_the_queue_is_told() -> None:
    (line, *_) = describe(replace(recorded("kueue-waiting"), workloads=None)).lines()
    assert line == "waits in queue line of Kueue; the reason stands in its Workload, which you may not read"
    assert describe(replace(recorded("kueue-resumed"), workloads=None)).reason is None


def test_a_job_that_was_stopped_at_its_deadline_says_so() -> None:
    """Earlier ends of its pods, which were made good, are not the cause."""
    seen = copy.deepcopy(recorded("out-of-memory"))
    seen.job["spec"]["runPolicy"]["activeDeadlineSeconds"] = 600
    message = 'job "oom" has failed because it was active longer than specified deadline'
    seen.job["status"]["conditions"].append({"type": "Failed", "status": "True", "message": message})
    line = describe(replace(seen, pods=())).lines()[0]
    assert line == "it was stopped after 600 s, as the run option deadline_seconds says"


def test_a_job_suspended_by_hand_is_told() -> None:
    seen = copy.deepcopy(recorded("cancelled"))
    seen.job["metadata"]["annotations"].clear()
    found = describe(seen)
    assert found.state is State.PENDING
    assert found.lines()[0].startswith("suspended by hand")


def test_events_of_an_earlier_job_of_the_same_name_do_not_count() -> None:
    seen = recorded("deleted")
    job = copy.deepcopy(seen.job)
    job["metadata"].update(uid="another", creationTimestamp="2026-11-30T12:00:00Z")
    assert describe(replace(seen, job=job)).restarts.total == 0


def test_the_pod_on_a_node_that_has_come_back_is_not_waited_for() -> None:
    seen = copy.deepcopy(recorded("node-lost"))
    for entry in seen.nodes["gpu-7"]["status"]["conditions"]:
        entry["status"] = "True"
    assert describe(seen).lines() == []


def test_metrics_tell_how_far_a_run_is() -> None:
    metrics = (
        "# TYPE cclm_train_step gauge\ncclm_train_step 420.0\ncclm_train_steps_planned 1000.0\n"
        "cclm_eta_seconds 3661.4\n"
        '# TYPE cclm_loss gauge\ncclm_loss{kind="images",loss="itc"} 2.4981\ncclm_phase{phase="training"} 1.0\n'
        '# TYPE cclm_restarts counter\ncclm_restarts_total{cause="lost_peer"} 2.0\n'
    )
    assert describe(replace(recorded("running"), metrics=metrics)).lines() == [
        "step 420 of 1000 (42%), loss images/itc 2.498, 1:01:01 left",
        "processes were started again in their pod 2 times: lost_peer",
    ]


def test_restarts_that_events_have_forgotten_are_told_from_the_run_itself() -> None:
    metrics = (
        "# TYPE cclm_train_step gauge\ncclm_train_step 420.0\n# TYPE cclm_restarts counter\n"
        'cclm_restarts_total{cause="lost_peer"} 2.0\n# TYPE cclm_run_restarts gauge\n'
        'cclm_run_restarts{cause="membership"} 0.0\n'
    )
    seen = replace(recorded("running"), metrics=metrics)
    assert describe(seen).lines() == ["step 420"]
    metrics += 'cclm_run_restarts{cause="lost_peer"} 9.0\ncclm_run_restarts{cause="killed"} 1.0\n'
    assert describe(replace(seen, metrics=metrics)).lines() == [
        "step 420",
        "since the run began its processes were started again 10 times: killed 1, lost_peer 9",
    ]


def test_after_the_end_the_last_words_of_a_pod_tell_how_far_the_run_came() -> None:
    seen = copy.deepcopy(recorded("succeeded"))
    ended = seen.pods[0]["status"]["containerStatuses"][0]["state"]["terminated"]
    facts = {"exit_code": 0, "cause": None, "may_retry": False}
    ended["message"] = "\n" + json.dumps({**facts, "progress": {"step": 200, "planned": 200, "image/itc": 1.25}}) + "\n"
    assert describe(seen).lines() == ["step 200 of 200 (100%), loss image/itc 1.25"]
    ended["message"] = json.dumps({**facts, "progress": {"step": 200}, "restarts": {"preempted": 1}})
    assert describe(seen).lines() == [
        "step 200",
        "since the run began its processes were started again once: preempted 1",
    ]
    ended["message"] = "\n" + json.dumps(facts)
    assert describe(seen).lines() == []


def test_the_line_for_programs_is_left_out_of_sentences() -> None:
    facts = json.dumps({"exit_code": 2, "cause": "user_error", "may_retry": False})
    assert exit_words(2, None, f"x.yaml: no such key\n{facts}\n") == "exit code 2: x.yaml: no such key"
    assert exit_words(2, None, 'x.yaml: no such key\n{"a": 1}') == 'exit code 2: x.yaml: no such key {"a": 1}'


@pytest.mark.parametrize("text", ["", "<html>not here</html>", 'other_metric{a="b"} 1\n'])
def test_what_is_no_metrics_of_a_run_is_left_out(text: str) -> None:
    assert describe(replace(recorded("running"), metrics=text)).progress is None


def test_sizes_of_a_job() -> None:
    job = copy.deepcopy(recorded("running").job)
    assert (smallest_size(job), replicas_of(job), largest_size(job)) == (1, 2, 2)
    job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] = 1
    assert (replicas_of(job), largest_size(job)) == (1, 2)
    del job["spec"]["elasticPolicy"]
    assert (smallest_size(job), largest_size(job)) == (1, 1)


def test_a_replica_that_was_scaled_away_is_shown_until_its_pod_is_gone() -> None:
    seen = copy.deepcopy(recorded("cancelling"))
    seen.job["metadata"]["annotations"].clear()
    seen.job["status"]["conditions"] = []
    seen.job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] = 1
    assert [replica.index for replica in describe(seen).replicas] == [0, 1]
    assert [replica.index for replica in describe(replace(seen, pods=seen.pods[:1])).replicas] == [0]


def test_a_train_job_is_read_by_its_own_conditions() -> None:
    job = {"kind": "TrainJob", "metadata": {"name": "a"}, "spec": {"trainer": {"numNodes": 3}}}
    assert replicas_of(job) == 3
    for kind, state in (("Complete", S), ("Failed", F), ("Suspended", P)):
        job["status"] = {"conditions": [{"type": kind, "status": "True"}]}
        assert job_state(job, ()) is state
