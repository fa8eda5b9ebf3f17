"""The rules by which nodes meet, with a clock that the tests move."""

import json
from dataclasses import dataclass, field, replace

import pytest

from cclm.launch import exit_report
from cclm.launch.causes import Cause
from cclm.launch.meeting import Limits, Meeting, Node, Report, Standing, Status, Trouble, View, best_place

LOST = Trouble(None, "node 2 is lost (its connection ended)")


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Place:
    """A meeting and the reports of its nodes."""

    limits: Limits = field(default_factory=lambda: Limits(1, 3))
    clock: Clock = field(default_factory=Clock)
    host: int = 0
    reports: dict[str, Report] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ports = iter(range(1000, 2000))
        self.meeting = Meeting(Node(self.host, f"n{self.host}"), self.limits, self.clock, lambda: next(ports))

    def report(self, index: int, status: Status, *, token: str | None = None, **changes: object) -> View:
        """A node reports that it is in the newest round, unless told otherwise."""
        token = token or f"n{index}"
        number = 0 if self.meeting.round is None or self.rank(token) is None else self.meeting.round.number
        found = Report(Node(index, token), status, number, processes=1)
        view = self.meeting.receive(replace(found, **changes))  # type: ignore[arg-type]  # tests pass fields of it
        assert view is not None
        return view

    def rank(self, token: str) -> int | None:
        return None if self.meeting.round is None else self.meeting.round.rank_of(token)

    def members(self) -> list[str]:
        return [] if self.meeting.round is None else [node.token for node in self.meeting.round.members]

    def number(self) -> int:
        return 0 if self.meeting.round is None else self.meeting.round.number

    def lose(self, token: str, *, looks_around: bool = True) -> None:
        """A node's connection ends; the host finds no other meeting."""
        self.meeting.lose(token, "its connection ended")
        if looks_around:
            self.meeting.yield_to([], self.meeting.losses)

    def wait(self, seconds: float) -> None:
        """Time passes while all that have reported go on to do so."""
        self.clock.now += seconds
        for attendee in self.meeting._attendees.values():
            attendee.last_report_time = self.clock.now
        self.meeting.tick()


@pytest.fixture
def three() -> Place:
    """Three nodes in their first round."""
    place = Place()
    for index in (0, 1, 2):
        place.report(index, Status.READY)
    for index in (0, 1, 2):
        place.report(index, Status.BUSY)
    assert place.members() == ["n0", "n1", "n2"] and place.number() == 1
    return place


def test_all_nodes_begin_at_once() -> None:
    place = Place(host=1)
    place.report(1, Status.READY)
    place.report(0, Status.READY)
    assert place.members() == []
    view = place.report(2, Status.READY)
    assert view.round is not None and view.round.master_port == 1000
    assert place.members() == ["n1", "n0", "n2"]  # the host is the first


def test_the_first_meeting_waits_for_the_last_call() -> None:
    place = Place(Limits(2, 3, last_call=30))
    place.report(0, Status.READY)
    place.wait(100)
    place.report(1, Status.READY)
    place.wait(29)
    assert place.members() == []
    place.wait(1)
    assert place.members() == ["n0", "n1"]


def test_too_few_nodes_never_begin() -> None:
    place = Place(Limits(3, 3))
    place.report(0, Status.READY)
    place.report(1, Status.READY)
    place.wait(10_000)
    assert place.members() == []


def test_a_node_that_is_busy_with_itself_is_waited_for(three: Place) -> None:
    three.lose("n2")
    assert three.meeting.trouble == LOST
    three.report(0, Status.READY)
    three.wait(1000)
    assert three.number() == 1  # node 1 still stops its processes
    three.report(1, Status.READY)
    assert three.members() == ["n0", "n1"] and three.number() == 2 and three.meeting.trouble is None


def test_a_lost_node_is_not_waited_for_if_the_others_are_enough(three: Place) -> None:
    three.lose("n2")
    three.report(1, Status.READY)
    three.report(0, Status.READY)
    assert three.members() == ["n0", "n1"]


def test_a_host_that_lost_nodes_looks_around_before_it_goes_on(three: Place) -> None:
    """It may be the one that is cut off."""
    three.lose("n1", looks_around=False)
    began = three.meeting.losses
    three.lose("n2", looks_around=False)
    three.report(0, Status.READY)
    assert three.meeting.should_look_around and three.number() == 1
    three.meeting.yield_to([], began)  # a look that began before the second loss
    assert three.meeting.should_look_around and three.number() == 1
    three.meeting.yield_to([standing(1, 2)], three.meeting.losses)
    assert three.meeting.is_dissolved and three.number() == 1


def test_a_silent_node_is_lost(three: Place) -> None:
    for _ in range(21):
        three.clock.now += 0.5
        for index in (0, 1):
            three.report(index, Status.BUSY)
        three.meeting.tick()
    assert three.meeting.trouble == Trouble(None, "node 2 is lost (silent for 10 s)")
    assert three.meeting.receive(Report(Node(2, "n2"), Status.BUSY, 1, 1)) is None  # it must enter anew


def test_a_host_that_stood_still_blames_nobody(three: Place) -> None:
    three.meeting.tick()
    three.clock.now += 60
    three.meeting.tick()
    assert three.meeting.trouble is None


def test_the_first_trouble_of_a_round_is_the_one_that_is_told(three: Place) -> None:
    killed = Trouble("KILLED", "rank 1 was killed")
    three.report(1, Status.BUSY, trouble=killed)
    view = three.report(2, Status.BUSY, trouble=Trouble("LOST_PEER", "lost another process"))
    assert view.trouble == killed
    for index in (0, 1, 2):
        three.report(index, Status.READY)
    assert three.number() == 2 and three.meeting.trouble is None
    three.report(1, Status.BUSY, round_number=1, trouble=killed)  # old news
    assert three.meeting.trouble is None


def test_a_node_that_joins_ends_the_round_softly() -> None:
    place = Place(Limits(1, 3))
    for index in (0, 1):
        place.report(index, Status.READY)
    place.wait(30)
    for index in (0, 1):
        place.report(index, Status.BUSY)
    view = place.report(2, Status.READY)
    assert view.is_node_joining and view.trouble is None and not view.has_node_left
    place.report(0, Status.READY)
    assert place.report(1, Status.READY).round is not None
    assert place.members() == ["n0", "n1", "n2"]
    assert not place.report(0, Status.BUSY).is_node_joining


def test_a_node_for_which_there_is_no_room_waits(three: Place) -> None:
    view = three.report(3, Status.READY)
    assert not view.is_node_joining
    three.lose("n1")
    three.report(0, Status.READY)
    three.report(2, Status.READY)
    assert three.members() == ["n0", "n2", "n3"]


def test_of_two_nodes_with_one_number_the_member_stays(three: Place) -> None:
    """A node that was cut off, and its replacement."""
    view = three.report(1, Status.READY, token="again")
    assert not view.is_node_joining
    three.lose("n1")
    three.report(0, Status.READY)
    three.report(2, Status.READY)
    assert three.members() == ["n0", "again", "n2"]


def test_a_node_that_leaves_in_good_order_ends_the_round_softly(three: Place) -> None:
    view = three.report(1, Status.LEAVING)
    assert view.has_node_left and view.trouble is None
    three.lose("n1")
    assert three.meeting.view().has_node_left and three.meeting.trouble is None
    three.report(0, Status.READY)
    three.report(2, Status.READY)
    assert three.members() == ["n0", "n2"]


def test_a_node_that_leaves_because_of_a_failure_says_why(three: Place) -> None:
    view = three.report(1, Status.LEAVING, trouble=Trouble("KILLED", "rank 1 was killed"))
    assert view.trouble == Trouble("KILLED", "rank 1 was killed")


def test_a_host_that_leaves_says_so(three: Place) -> None:
    assert three.report(0, Status.LEAVING).is_host_leaving


def test_nobody_is_finished_before_all_are(three: Place) -> None:
    three.report(0, Status.DONE)
    assert not three.report(1, Status.DONE).is_finished
    assert not three.report(3, Status.READY).is_node_joining
    assert three.report(2, Status.DONE).is_finished
    three.lose("n1")
    assert three.meeting.trouble is None
    assert three.report(4, Status.READY).is_finished  # for a pod that comes too late


def test_a_node_that_is_lost_before_all_are_done_begins_a_new_round(three: Place) -> None:
    three.report(0, Status.DONE)
    three.report(1, Status.DONE)
    three.lose("n2")
    assert three.meeting.trouble == LOST
    three.report(0, Status.READY)
    three.report(1, Status.READY)
    assert three.members() == ["n0", "n1"]


def test_at_a_new_host_those_of_the_last_round_are_waited_for() -> None:
    """Of nodes 0 to 3, the host is lost. Node 3 does not come either, and nobody knows why."""
    place = Place(Limits(2, 4, remeet=15), host=1)
    former = ("old0", "old2", "old3")
    place.report(1, Status.READY, former=former, lost=("old0", "old1"))
    place.report(2, Status.READY, former=("old0", "old1", "old3"), lost=("old0", "old2"))
    place.wait(14)
    assert place.members() == []
    place.wait(1)
    assert place.members() == ["n1", "n2"]


def test_at_a_new_host_nobody_is_waited_for_if_all_are_back() -> None:
    place = Place(Limits(1, 3), host=1)
    place.report(1, Status.READY, former=("old0", "old2"), lost=("old0", "old1"))
    assert place.members() == []
    place.report(2, Status.BUSY, former=("old0", "old1"), lost=("old0", "old2"))
    assert place.members() == []
    place.report(2, Status.READY, former=("old0", "old1"), lost=("old0", "old2"))
    assert place.members() == ["n1", "n2"]


def test_at_a_new_host_that_is_left_alone_there_is_no_last_call() -> None:
    place = Place(Limits(1, 2), host=1)
    place.report(1, Status.READY, former=("old0", "old1"), lost=("old0", "old1"))
    assert place.members() == ["n1"]


def test_a_verdict_is_for_all(three: Place) -> None:
    three.report(1, Status.BUSY, verdict="{}")
    assert three.report(0, Status.BUSY).verdict == "{}"
    assert three.report(3, Status.READY).verdict == "{}"


def test_all_nodes_start_equally_many_processes() -> None:
    place = Place()
    place.report(0, Status.READY, processes=4)
    view = place.report(1, Status.READY, processes=2)
    assert view.verdict is not None
    failure = exit_report.parse(json.loads(view.verdict))
    assert failure is not None and failure.cause is Cause.USER_ERROR
    assert failure.message.startswith("node 1 starts 2 processes, and node 0 starts 4")


def standing(index: int, size: int = 0, token: str = "a") -> Standing:
    return Standing(size > 0, size, Node(index, token))


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (standing(2, 1), standing(0)),  # a round that runs
        (standing(2, 3), standing(0, 1)),  # more nodes
        (standing(1), standing(2)),  # the lower number
        (standing(1, 2), standing(2, 2)),
        (standing(1, 1, "b"), standing(1, 1, "a")),  # of one number, just one
    ],
)
def test_of_two_meetings_one_is_better(better: Standing, worse: Standing) -> None:
    assert better.beats(worse) and not worse.beats(better) and not better.beats(better)


def test_a_meeting_dissolves_for_a_better_one(three: Place) -> None:
    three.meeting.yield_to([standing(1, 2), standing(2)], 0)
    assert not three.meeting.is_dissolved
    three.meeting.yield_to([standing(1, 4)], 0)
    assert three.report(0, Status.BUSY).is_dissolved


@pytest.mark.parametrize(
    ("own", "answers", "place"),
    [
        (0, {}, 0),
        (2, {}, 2),
        (0, {1: None, 2: None}, 0),
        (1, {0: None, 2: None}, None),  # node 0 will host
        (1, {2: None}, 1),
        (0, {1: standing(1), 2: None}, 1),  # an existing meeting comes before a new one
        (3, {1: standing(1), 2: standing(2, 2)}, 2),
        (3, {1: standing(1), 2: standing(2)}, 1),
    ],
)
def test_where_to_go(own: int, answers: dict[int, Standing | None], place: int | None) -> None:
    assert best_place(own, answers) == place
