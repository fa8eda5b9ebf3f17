"""Nodes find each other over real connections on loopback."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cclm.errors import UserError
from cclm.launch import membership as module
from cclm.launch.meeting import Limits, Status, Trouble
from cclm.launch.meeting_addresses import Address, parse_addresses
from cclm.launch.membership import JoinedRound, MeetingTimeout, Membership, RunEnded, RunIsOver
from tests.stores.server import free_ports

LIMITS = Limits(2, 3, last_call=0.5, silence=60)
PATIENCE = 60.0

Make = Callable[..., Membership]


@pytest.fixture
def node() -> Iterator[Make]:
    """Makes nodes of one job: `node(INDEX)`."""
    addresses = [Address("127.0.0.1", port) for port in free_ports(3)]
    made: list[Membership] = []

    def make(
        index: int, *, run: str = "job", limits: Limits = LIMITS, own: Address | None = None, stay_seconds: float = 0.0
    ) -> Membership:
        known = [own if own and place == index else address for place, address in enumerate(addresses)]
        made.append(Membership(known, index, run, limits, 1, lambda _: None, stay_seconds))
        return made[-1]

    yield make
    for each in made:
        each._disconnect()
        if each._server is not None:
            each._server.close()


def meet(*nodes: Membership) -> list[JoinedRound]:
    """The next round, entered by all at once."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda each: each.next_round(PATIENCE), nodes))


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.02)


def test_nodes_meet_and_agree_on_ranks_and_place(node: Make) -> None:
    all_of_them = Limits(3, 3)
    joined = meet(*(node(index, limits=all_of_them) for index in range(3)))
    assert sorted(each.rank for each in joined) == [0, 1, 2]
    assert len({each.round for each in joined}) == 1
    assert {each.host_address for each in joined} == {"127.0.0.1"}


def test_a_trouble_is_told_and_the_next_round_has_none(node: Make) -> None:
    nodes = [node(0), node(1)]
    meet(*nodes)
    nodes[1].report_trouble(Trouble("KILLED", "rank 1 was killed"))
    assert nodes[0].explain(PATIENCE) == Trouble("KILLED", "rank 1 was killed")
    assert [each.round.number for each in meet(*nodes)] == [2, 2]
    assert nodes[0].trouble() is None and nodes[1].trouble() is None


def test_a_verdict_ends_the_wait_of_all(node: Make) -> None:
    nodes = [node(0), node(1)]
    meet(*nodes)
    nodes[1].end("why")
    wait_for(lambda: nodes[0].verdict, "the verdict")
    with pytest.raises(RunEnded, match="why"):
        nodes[0].next_round(PATIENCE)


def test_who_comes_after_success_learns_so(node: Make) -> None:
    nodes = [node(0), node(1)]
    meet(*nodes)
    for each in nodes:
        each.report_done()
    wait_for(lambda: nodes[0].is_finished and nodes[1].is_finished, "success")
    with pytest.raises(RunIsOver):
        node(2).next_round(PATIENCE)


def test_after_success_the_host_goes_first(node: Make) -> None:
    """The operator keeps the log of the pod that has ended first, and removes those that still run."""
    nodes = [node(0), node(1)]
    meet(*nodes)
    for each in nodes:
        each.report_done()
    wait_for(lambda: nodes[0].is_finished and nodes[1].is_finished, "success")
    order: list[int] = []

    def close(index: int) -> None:
        nodes[index].close()
        order.append(index)

    with ThreadPoolExecutor() as pool:
        guest = pool.submit(close, 1)
        wait_for(lambda: nodes[1]._status is Status.LEAVING, "the other node's end")
        pool.submit(close, 0).result(PATIENCE)
        guest.result(PATIENCE)
    assert order == [0, 1]


def test_in_a_pod_the_others_stay_until_the_process_of_the_host_has_ended(node: Make) -> None:
    """It may wait for the last scrape of its metrics."""
    nodes = [node(0, stay_seconds=0.1), node(1, stay_seconds=0.1)]
    meet(*nodes)
    for each in nodes:
        each.report_done()
    wait_for(lambda: nodes[0].is_finished and nodes[1].is_finished, "success")
    with ThreadPoolExecutor() as pool:
        guest = pool.submit(nodes[1].close)
        pool.submit(nodes[0].close).result(PATIENCE)
        link, server = nodes[1]._link, nodes[0]._server
        assert link is not None and server is not None
        before = link.view
        wait_for(lambda: link.view is not before, "another answer of the host")
        assert not guest.done()
        server.close()  # as the end of its process does
        guest.result(PATIENCE)


def test_nodes_of_other_jobs_are_no_nodes(node: Make) -> None:
    other = node(0, run="another", limits=Limits(1, 3, last_call=0.1))
    meet(other)
    with pytest.raises(MeetingTimeout):
        node(1).next_round(1.0)


def test_a_node_that_does_not_know_its_own_name_can_host(node: Make) -> None:
    (port,) = free_ports(1)
    own = Address("no-such-name.invalid", port)
    [joined] = meet(node(0, limits=Limits(1, 3, last_call=0.1), own=own))
    assert joined.rank == 0


def test_a_port_in_use_is_a_sentence(node: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PORT_SECONDS", 0.0)
    node(0)
    with pytest.raises(UserError, match=r"^the rendezvous port \d+ cannot be used: "):
        node(0)


def test_a_node_beyond_the_known_ones_takes_part_but_cannot_host(node: Make) -> None:
    spare = node(3)
    with pytest.raises(MeetingTimeout):
        spare.next_round(0.1)
    joined = meet(node(0), spare)
    assert [each.rank for each in joined] == [0, 1]


def test_addresses_are_parsed_or_refused() -> None:
    assert parse_addresses("a:1|b.c:2") == [Address("a", 1), Address("b.c", 2)]
    with pytest.raises(UserError, match="'b' is no HOST:PORT"):
        parse_addresses("a:1|b")
