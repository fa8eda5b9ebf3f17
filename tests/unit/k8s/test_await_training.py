"""What `helm test` of a run does: waits until the job trains, and says why it does not."""

import pytest

from cclm.errors import UserError
from k8s import await_training
from k8s.api_errors import Unreachable
from k8s.replicas import State
from tests.unit.k8s.api_server import Answer, ApiServer, recorded

METRICS = "GET .*/proxy/metrics"


def server_of(name: str) -> ApiServer:
    """A cluster with a recorded job, its pods and events."""
    kept, server = recorded(name), ApiServer()
    namespace = kept.job["metadata"]["namespace"]
    server.put(f"/apis/kubeflow.org/v1/namespaces/{namespace}/pytorchjobs", kept.job)
    server.put(f"/api/v1/namespaces/{namespace}/pods", *kept.pods)
    return server


def wait(server: ApiServer, name: str, seconds: float = 0) -> tuple[State, list[str]]:
    said: list[str] = []
    found = await_training.await_training(server.cluster(), "team-a", name, seconds, said.append)
    return found.state, said


def test_a_run_that_has_made_a_step_trains() -> None:
    server = server_of("running")
    server.answer(METRICS, Answer(200, b"cclm_train_step 7\n"))
    state, said = wait(server, "running")
    assert state is State.RUNNING
    assert said == ["running: step 7"]


def test_it_is_waited_for_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(await_training, "_INTERVAL", 0)
    server = server_of("running")
    # Both pods are asked where one does not answer.
    silent, prepared = Answer(503, b"{}"), Answer(200, b'cclm_phase{phase="preparing"} 1\ncclm_train_step 0\n')
    server.answer(METRICS, silent, silent, prepared, prepared, Answer(200, b"cclm_train_step 1\n"))
    state, said = wait(server, "running", seconds=60)
    assert state is State.RUNNING
    assert said[0] == "running: running" and said[-1] == "running: step 1" and len(said) == 3


def test_a_run_that_has_succeeded_will_do() -> None:
    assert wait(server_of("succeeded"), "done") == (State.SUCCEEDED, ["done: succeeded"])


@pytest.mark.parametrize(
    ("recording", "job", "sentence"),
    [
        ("user-error", "usererror", "usererror has failed: replica 0-1 failed: exit code 2"),
        ("unschedulable", "big", "big has not trained a step after 0 s: replica 0-1: no node has room"),
        ("cancelled", "running", "running was cancelled: "),
        ("running", "other", "there is no job other in namespace team-a"),
    ],
)
def test_why_it_does_not_train(recording: str, job: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        wait(server_of(recording), job)


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(await_training, "connect", lambda context: server_of("succeeded").cluster())
    assert await_training.run(["team-a", "done"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "done has succeeded"

    def away(context: str | None) -> None:
        raise Unreachable("no answer")

    monkeypatch.setattr(await_training, "connect", away)
    assert await_training.run(["team-a", "done"]) == 2
    assert capsys.readouterr().err == "error: no answer\n"
