"""Logs across restarts: every line once, whatever the API server breaks off."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from cclm.errors import UserError
from k8s.api_errors import Forbidden, Unreachable
from k8s.logs import Follower, Seen, Selection, parse_line, whole_lines
from k8s.objects import PYTORCH_JOB, Object
from tests.unit.k8s.api_server import Answer, ApiServer, forbidden, not_found, recorded

ALL = Selection()
JOB = "/apis/kubeflow.org/v1/namespaces/team-a/pytorchjobs/running"
POD = "/api/v1/namespaces/team-a/pods/running-worker-0"


def _stamped(*texts: str, second: int = 0) -> bytes:
    """Lines as the API sends them, one every tenth of a second."""
    lines = [f"2026-11-30T11:40:{second:02}.{number}00000007Z {text}\n" for number, text in enumerate(texts)]
    return "".join(lines).encode()


class World:
    """One job with one pod, whose life is a list of steps: each is taken when the follower waits."""

    def __init__(self) -> None:
        self.server = ApiServer("team-a")
        self.job = copy.deepcopy(recorded("running").job)
        self.pod = copy.deepcopy(recorded("running").pods[0])
        self.server.objects[JOB] = self.job
        self.server.objects[POD] = self.pod
        self.steps: Iterator[Callable[[], None]] = iter(())
        self.server.special.append((re.compile("GET /api/v1/namespaces/team-a/pods\\?watch"), self._wait))

    def _wait(self, _: object) -> Answer:
        next(self.steps)()
        return Answer(200, b"{}\n")

    def sleep(self, _: float) -> None:
        next(self.steps)()

    def log(self, *answers: Answer | Exception, options: str = "") -> None:
        """What the log of the pod gives, request after request."""
        self.server.answer(f"GET {POD}/log\\?{options}", *answers)

    def end(self, code: int = 0) -> None:
        """The container ends."""
        state = {"terminated": {"exitCode": code, "finishedAt": "2026-11-30T11:41:00Z"}}
        self.pod["status"]["containerStatuses"][0].update(state=state, ready=False)
        self.pod["status"]["phase"] = "Failed" if code else "Succeeded"

    def succeed(self) -> None:
        """The job is over."""
        self.job["status"]["conditions"].append({"type": "Succeeded", "status": "True"})

    def replace(self) -> Object:
        """Another pod takes the place of the present one."""
        self.pod = copy.deepcopy(recorded("running").pods[0])
        self.pod["metadata"]["uid"] = f"another-{id(self.pod)}"
        self.server.objects[POD] = self.pod
        return self.pod

    def lines(self, *, is_followed: bool = True, selection: Selection = ALL) -> list[str]:
        cluster = self.server.cluster()
        follower = Follower(cluster, PYTORCH_JOB, "team-a", "running", 0, selection, self.sleep)
        return list(follower.lines(is_followed=is_followed))


@pytest.fixture
def world() -> World:
    return World()


def test_a_plain_log_is_what_the_pod_has_written(world: World) -> None:
    world.log(Answer(200, _stamped("one", "two")))
    assert world.lines(is_followed=False) == ["one\n", "two\n"]


def test_a_plain_log_begins_with_the_container_before(world: World) -> None:
    world.pod["status"]["containerStatuses"][0]["restartCount"] = 1
    world.log(Answer(200, _stamped("before")), options="previous=true")
    world.log(Answer(200, _stamped("after")))
    assert world.lines(is_followed=False) == ["before\n", "after\n"]


def test_a_replica_without_a_pod_has_no_log(world: World) -> None:
    del world.server.objects[POD]
    assert world.lines(is_followed=False) == []


def test_a_broken_connection_loses_and_repeats_nothing(world: World) -> None:
    """The stream breaks in the midst of a line. The whole line is sent when the log is read again."""
    whole = _stamped("a", "same", "b") + _stamped("same", "c", second=1)
    world.log(Answer(200, b"", [whole[:70], whole[70:100]]), Answer(200, whole), Answer(200, whole))
    world.steps = iter([world.succeed, world.end])
    world.end()
    world.succeed()
    assert world.lines() == ["a\n", "same\n", "b\n", "same\n", "c\n"]


def test_the_log_is_read_again_from_shortly_before_the_last_line(world: World) -> None:
    world.log(Answer(200, _stamped("a", second=30)), Answer(200, _stamped("a", "b", second=30)))
    world.end()
    world.succeed()
    assert world.lines() == ["a\n", "b\n"]
    asked = [line for line in world.server.lines if "/log" in line]
    assert "sinceTime" not in asked[0]
    assert "sinceTime=2026-11-30T11%3A40%3A25Z" in asked[1]


def test_lines_that_are_alike_are_all_given(world: World) -> None:
    twice = b"2026-11-30T11:40:00.5Z same\n" * 2
    world.log(Answer(200, twice), Answer(200, twice + b"2026-11-30T11:40:00.5Z same\n"))
    world.end()
    world.succeed()
    assert world.lines() == ["same\n"] * 3


def test_the_log_goes_on_with_the_pod_that_takes_the_place(world: World) -> None:
    world.log(Answer(200, _stamped("first life")), Answer(200, _stamped("second life", second=9)))

    def replaced() -> None:
        world.replace()

    def ended() -> None:
        world.end()
        world.succeed()

    world.steps = iter([replaced, ended])
    assert world.lines() == ["first life\n", "second life\n"]
    asked = [line for line in world.server.lines if "/log" in line]
    # The second request met the new pod while it was meant for the old one, so nothing of it was taken.
    assert ["sinceTime" in line for line in asked[:3]] == [False, True, False]


def test_the_log_goes_on_where_the_node_has_forgotten_the_pod_before_the_api_server_has(world: World) -> None:
    """The rest of an ended container is asked for, and the node answers 404 in the words of an unknown kind."""
    forgotten = {
        "kind": "Status", "message": "the server could not find the requested resource ( pods/log running-worker-0)",
        "reason": "NotFound", "details": {"name": "running-worker-0", "kind": "pods/log"}, "code": 404,
    }  # fmt: skip
    world.log(
        Answer(200, _stamped("first life")),
        Answer(404, json.dumps(forgotten).encode()),
        Answer(200, _stamped("second life", second=9)),
    )
    world.end(143)

    def replaced() -> None:
        world.replace()
        world.end()
        world.succeed()

    world.steps = iter([replaced])
    assert world.lines() == ["first life\n", "second life\n"]


def test_the_log_waits_for_a_pod_that_is_not_there_yet(world: World) -> None:
    del world.server.objects[POD]
    world.log(Answer(200, _stamped("at last")))

    def comes() -> None:
        world.server.objects[POD] = world.pod

    def ends() -> None:
        world.end()
        world.succeed()

    world.steps = iter([comes, ends])
    assert world.lines() == ["at last\n"]


def test_a_dead_node_is_waited_for(world: World) -> None:
    """The API server answers 500 for the log of a pod whose node does not answer."""
    world.log(
        Answer(200, _stamped("before")),
        Answer(500, b'{"kind": "Status", "message": "dial tcp 10.0.0.7:10250: i/o timeout"}'),
        Unreachable("the API server broke off its answer"),
        Answer(200, _stamped("before", "after")),
    )

    def nothing() -> None:
        pass

    def ends() -> None:
        world.end()
        world.succeed()

    world.steps = iter([nothing, nothing, ends])
    assert world.lines() == ["before\n", "after\n"]


def test_an_api_server_that_is_away_is_waited_for(world: World) -> None:
    world.log(Answer(200, _stamped("here")))
    away = Unreachable("the cluster does not answer")
    world.server.answer(f"GET {JOB}$", away, away, Answer(200, json.dumps(world.job).encode()))
    world.server.answer(f"GET {POD}$", away, away, Answer(200, json.dumps(world.pod).encode()))

    def nothing() -> None:
        pass

    def over() -> None:
        world.server.special = [entry for entry in world.server.special if "log" in entry[0].pattern]
        world.end()
        world.succeed()

    world.steps = itertools.chain([nothing, nothing, nothing], itertools.repeat(over))
    assert world.lines() == ["here\n"]


def test_a_container_that_is_started_again_in_its_pod_is_followed(world: World) -> None:
    world.log(Answer(200, _stamped("first", "last words")), options="previous=true")
    world.log(Answer(200, _stamped("first")), Answer(200, _stamped("second start", second=8)))

    def again() -> None:
        world.end()
        world.succeed()

    original = world.server.send
    counts = {"n": 0}

    def send(message: object) -> Answer:
        answer = original(message)  # type: ignore[arg-type]  # one kind of message
        if "/log" in message.path and counts["n"] == 0:  # type: ignore[attr-defined]
            counts["n"] = 1
        elif counts["n"] == 1 and message.path == POD:  # type: ignore[attr-defined]
            counts["n"] = 2
        elif counts["n"] == 2:
            world.pod["status"]["containerStatuses"][0]["restartCount"] = 1
            counts["n"] = 3
        return answer

    world.server.send = send  # type: ignore[method-assign]
    world.steps = itertools.repeat(again)
    assert world.lines() == ["first\n", "last words\n", "second start\n"]


def test_a_missing_permission_ends_it_with_a_sentence(world: World) -> None:
    world.log(forbidden("get", "pods/log"))
    with pytest.raises(Forbidden, match="ana may not get pods/log"):
        world.lines()


def test_a_job_that_was_deleted_ends_it(world: World) -> None:
    world.log(Answer(200, _stamped("gone")))
    world.server.answer(f"GET {JOB}$", not_found("pytorchjobs", "running"))
    world.end()
    assert world.lines() == ["gone\n"]


def test_lines_are_chosen_by_time_and_text(world: World) -> None:
    world.log(Answer(200, _stamped("step 1", "saved", second=1) + _stamped("step 2", "step 3", second=20)))
    since, until = datetime(2026, 11, 30, 11, 40, 1, 50_000, UTC), datetime(2026, 11, 30, 11, 40, 20, 50_000, UTC)
    assert world.lines(is_followed=False, selection=Selection.build("^step", None, until)) == ["step 1\n", "step 2\n"]
    assert world.lines(is_followed=False, selection=Selection.build(None, since, until)) == ["saved\n", "step 2\n"]
    assert "sinceTime=2026-11-30T11%3A40%3A01Z" in world.server.lines[-2]


def test_a_followed_log_ends_at_its_last_moment(world: World) -> None:
    world.log(Answer(200, _stamped("early") + _stamped("late", second=59)))
    until = datetime(2026, 11, 30, 11, 40, 30, tzinfo=UTC)
    assert world.lines(selection=Selection.build(None, None, until)) == ["early\n"]


def test_a_wrong_expression_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"--regex \(: not a regular expression"):
        Selection.build("(", None, None)


def test_lines_are_cut_at_their_ends_only() -> None:
    pieces = [b"one\ntw", b"o\r50%\r", b"done\nre", b"st"]
    assert list(whole_lines(iter(pieces), keeps_rest=True)) == [b"one", b"two\r50%\rdone", b"rest"]
    assert list(whole_lines(iter(pieces), keeps_rest=False)) == [b"one", b"two\r50%\rdone"]


def test_text_that_is_no_utf8_is_kept() -> None:
    line = parse_line(b"2026-11-30T11:40:00.123456789Z caf\xe9 ")
    assert line is not None and line.text == "caf\N{REPLACEMENT CHARACTER} "
    assert parse_line(b"unable to retrieve container logs") is None


def test_only_recent_lines_are_remembered() -> None:
    seen = Seen()
    for second in range(60):
        line = parse_line(_stamped("x", second=second).strip())
        assert line is not None
        seen.add(line)
    assert sum(seen.repetitions().values()) == 11
    assert seen.start == datetime(2026, 11, 30, 11, 40, 54, tzinfo=UTC)
