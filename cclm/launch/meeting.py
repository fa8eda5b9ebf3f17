"""The rules by which the nodes of a run meet: who takes part in a round of training, and when it begins and ends.

One node hosts the meeting. The others report to it twice a second, and each report is answered by a `View` of the
meeting. The host alone decides, by its own clock, so nodes need not agree on the time. If the host is lost, the others
choose another one (`best_place`). The loss of a node thus costs a round, not the run.

A round is one start of the training processes of all nodes that take part. It ends softly when nodes join or leave in
good order: processes save and stop together. It ends hard by a `Trouble`, when a node is lost or a process has failed:
then nothing can be saved together, and the processes that are left would wait in vain.

No sockets, threads or torch here: `cclm.launch.meeting_server` and `cclm.launch.membership` have the former two.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cclm.launch import exit_report
from cclm.launch.causes import Cause, Failure


class Status(enum.Enum):
    """What a node is doing."""

    BUSY = "busy"
    """Its processes run, or are being stopped."""
    READY = "ready"
    """It waits for the next round."""
    DONE = "done"
    """Its processes have succeeded."""
    LEAVING = "leaving"
    """Its processes have stopped, and the node goes."""


@dataclass(frozen=True)
class Limits:
    """Numbers of nodes, and time limits in seconds."""

    min_nodes: int
    max_nodes: int
    last_call: float = 30.0
    """In the first meeting of a run: from the moment that enough nodes are there until it goes on without the rest."""
    remeet: float = 15.0
    """In later meetings: for nodes of the last round that are not known to be lost."""
    silence: float = 10.0
    """A node is lost after this time without a report."""


@dataclass(frozen=True, order=True)
class Node:
    """One launcher."""

    index: int
    """Its number in the job, which its replacement has as well."""
    token: str
    """A random name, new each time that the launcher enters a meeting."""


@dataclass(frozen=True)
class Trouble:
    """Why a round has ended hard."""

    cause: str | None
    """A name of `cclm.launch.causes.Cause`; None: a node was lost."""
    reason: str
    """What happened, in one line."""


@dataclass(frozen=True)
class Round:
    """One start of the training processes."""

    number: int
    """From 1 in each meeting."""
    members: tuple[Node, ...]
    """In the order of their ranks. The host is the first."""
    master_port: int
    """Of the host, for the process group."""

    def rank_of(self, token: str) -> int | None:
        """The rank of a node; None if it does not take part."""
        return next((rank for rank, node in enumerate(self.members) if node.token == token), None)


@dataclass(frozen=True)
class Report:
    """All that a node tells the host. It is whole each time, so none can be missed."""

    node: Node
    status: Status
    round_number: int
    """The last round of this meeting in which the node took part; 0: none."""
    processes: int
    """Number of training processes that the node starts."""
    former: tuple[str, ...] = ()
    """Tokens of the last round in which it took part, in any meeting."""
    lost: tuple[str, ...] = ()
    """Tokens that are no longer in use, as far as the node knows."""
    trouble: Trouble | None = None
    """Why its part of round `round_number` has failed."""
    verdict: str | None = None
    """Why the run ends for all nodes, as `cclm.launch.exit_report` writes it."""


@dataclass(frozen=True)
class View:
    """What the host tells each node."""

    round: Round | None
    """The newest one; None before the first."""
    trouble: Trouble | None
    """Why `round` has ended hard; None while it goes on."""
    is_node_joining: bool
    """Whether `round` should end softly, since another node wants to take part."""
    has_node_left: bool
    """Whether `round` should end softly, since a node has left in good order."""
    is_finished: bool
    """Whether the run has succeeded on all nodes."""
    verdict: str | None
    """Why the run ends for all nodes."""
    is_dissolved: bool
    """Whether the nodes should look for a better meeting."""
    is_host_leaving: bool
    indexes: tuple[int, ...]
    """Of the nodes that are here."""


@dataclass(frozen=True)
class Standing:
    """How a meeting compares with others of the same run. There may be several after a network was cut."""

    is_running: bool
    size: int
    """Nodes of the round that runs; 0 if none does."""
    host: Node

    def beats(self, other: Standing) -> bool:
        """Whether the nodes of `other` should come here. Of any two different meetings, exactly one beats the other."""
        return self._rank() > other._rank()

    def _rank(self) -> tuple[bool, int, int, str]:
        return self.is_running, self.size, -self.host.index, self.host.token


def best_place(own_index: int, answers: Mapping[int, Standing | None]) -> int | None:
    """Where a node that attends no meeting should go.

    Args:
        own_index: of the node.
        answers: of the other nodes that could be reached, by index: the standing of the meeting that one hosts; None
            if it hosts none.

    Returns:
        The index of the host; `own_index`: host a meeting; None: a node with a lower index will, so ask again soon.
    """
    hosts = {index: standing for index, standing in answers.items() if standing is not None}
    if hosts:
        best = next(iter(hosts))
        for index, standing in hosts.items():
            if standing.beats(hosts[best]):
                best = index
        return best
    return own_index if own_index < min(answers, default=own_index + 1) else None


@dataclass
class _Attendee:
    """What the host knows of a node."""

    report: Report
    last_report_time: float
    """When it reported last."""


@dataclass
class Meeting:
    """The state of a meeting, at its host. Not thread-safe: callers with several threads must hold a lock.

    Args:
        host: the node that hosts it.
        clock: returns seconds that never jump.
        pick_port: returns a free port of the host.
    """

    host: Node
    limits: Limits
    clock: Callable[[], float]
    pick_port: Callable[[], int]
    round: Round | None = None
    trouble: Trouble | None = None
    is_finished: bool = False
    is_dissolved: bool = False
    verdict: str | None = None
    _attendees: dict[str, _Attendee] = field(default_factory=dict)
    _gone: set[str] = field(default_factory=set)
    """Tokens that will not come back."""
    _has_left: bool = False
    """Whether a member of `round` has left in good order."""
    _gathering_since: float | None = None
    """Since when the nodes gather for the next round; None while a round goes on."""
    _enough_since: float | None = None
    """Since when enough nodes are ready."""
    _last_tick: float | None = None
    losses: int = 0
    """Nodes that were lost without a word."""
    _losses_looked_into: int = 0
    """Losses that were known when the host last looked for other meetings."""

    def receive(self, report: Report) -> View | None:
        """Take in a report; returns the answer. None: this node was taken for lost, and must enter anew."""
        token = report.node.token
        if token in self._gone:
            return None
        self._attendees[token] = _Attendee(report, self.clock())
        self._gone.update(lost for lost in report.lost if lost not in self._attendees)
        if self.verdict is None:
            self.verdict = report.verdict or self._refuse_other_processes(report)
        is_current = self.round is not None and report.round_number == self.round.number
        if is_current and self.trouble is None:
            self.trouble = report.trouble
        if report.status is Status.LEAVING:
            self._has_left = self._has_left or self._is_member(token)
        self._advance()
        return self.view()

    def lose(self, token: str, reason: str) -> None:
        """A node's connection has ended, or the node is silent."""
        attendee = self._attendees.pop(token, None)
        if attendee is None:
            return
        self._gone.add(token)
        if attendee.report.status is not Status.LEAVING and not self.is_finished:
            self.losses += 1
            if self._is_member(token) and self.trouble is None:
                self.trouble = Trouble(None, f"node {attendee.report.node.index} is lost ({reason})")
        self._advance()

    def tick(self) -> None:
        """Do what is due by the clock. To be called about every half second."""
        now = self.clock()
        pause = 0.0 if self._last_tick is None else now - self._last_tick
        self._last_tick = now
        for token, attendee in list(self._attendees.items()):
            if pause > self.limits.silence / 3:  # this process itself stood still, and could hear nobody
                attendee.last_report_time += pause
            if now - attendee.last_report_time > self.limits.silence and token != self.host.token:
                self.lose(token, f"silent for {self.limits.silence:g} s")
        self._advance()

    @property
    def should_look_around(self) -> bool:
        """Whether the next round waits until the host has looked for other meetings.

        From inside, the loss of other nodes looks like the loss of one's own connection: the others may have met
        elsewhere already.
        """
        return self.losses > self._losses_looked_into

    def yield_to(self, others: list[Standing], losses: int) -> None:
        """Dissolve this meeting if one of the others is better.

        Args:
            others: all that a look at the nodes that are not here has found.
            losses: those that were known when the look began.
        """
        self._losses_looked_into = max(self._losses_looked_into, losses)
        own = self.standing()
        if not self.is_finished and self.verdict is None and any(other.beats(own) for other in others):
            self.is_dissolved = True
        self._advance()

    def standing(self) -> Standing:
        """What this meeting counts for."""
        is_running = self.round is not None and self.trouble is None
        return Standing(is_running, len(self.round.members) if self.round and is_running else 0, self.host)

    def indexes(self) -> tuple[int, ...]:
        """Of the nodes that are here."""
        return tuple(sorted({attendee.report.node.index for attendee in self._attendees.values()}))

    def others(self) -> int:
        """How many nodes besides the host are here. After success only those count that have not heard of it."""
        here = [attendee.report.status for token, attendee in self._attendees.items() if token != self.host.token]
        return len(here) - (here.count(Status.LEAVING) if self.is_finished else 0)

    def view(self) -> View:
        """The view of the meeting that the host sends to the nodes."""
        host = self._attendees.get(self.host.token)
        return View(
            round=self.round,
            trouble=self.trouble,
            is_node_joining=self._is_node_joining(),
            has_node_left=self.round is not None and self.trouble is None and self._has_ended_for_some(),
            is_finished=self.is_finished,
            verdict=self.verdict,
            is_dissolved=self.is_dissolved,
            is_host_leaving=host is not None and host.report.status is Status.LEAVING,
            indexes=self.indexes(),
        )

    def _is_member(self, token: str) -> bool:
        return self.round is not None and self.round.rank_of(token) is not None

    def _members(self) -> list[_Attendee]:
        """The members of the round that are here."""
        return [attendee for token, attendee in self._attendees.items() if self._is_member(token)]

    def _is_over_for(self, attendee: _Attendee) -> bool:
        """Whether a member has taken part in the round and has come out of it."""
        report = attendee.report
        return self.round is not None and report.status is Status.READY and report.round_number >= self.round.number

    def _has_ended_for_some(self) -> bool:
        """Whether a member has left the round in good order."""
        return self._has_left or any(self._is_over_for(member) for member in self._members())

    def _is_node_joining(self) -> bool:
        if self.round is None or self.trouble is not None:
            return False
        if any(member.report.status is Status.DONE for member in self._members()):
            return False  # the run is about to be over
        return len(self._choose(with_members=True)) > len(self.round.members)

    def _choose(self, *, with_members: bool = False) -> list[Node]:
        """The nodes for the next round, in the order of their ranks: the host, then by index, one for each index.

        Args:
            with_members: choose as if all members of the present round were ready.
        """
        chosen: dict[int, Node] = {}
        ranked = sorted(self._attendees.items(), key=lambda each: (not self._is_member(each[0]), each[1].report.node))
        for token, attendee in ranked:
            node, status = attendee.report.node, attendee.report.status
            if status is Status.READY or (with_members and self._is_member(token) and status is not Status.LEAVING):
                chosen.setdefault(node.index, node)
        by_rank = sorted(chosen.values(), key=lambda node: (node.token != self.host.token, node))
        members = [node for node in by_rank if self._is_member(node.token) or node == self.host]
        others = [node for node in by_rank if node not in members]
        kept = {*members, *others[: max(0, self.limits.max_nodes - len(members))]}
        return [node for node in by_rank if node in kept][: self.limits.max_nodes]

    def _advance(self) -> None:
        """Begin a new round, or find the run finished, where that is due."""
        if self.is_finished or self.is_dissolved or self.verdict is not None:
            return
        now = self.clock()
        if self.round is not None and self.trouble is None:
            members = self._members()
            done = sum(member.report.status is Status.DONE for member in members)
            if done == len(self.round.members):
                self.is_finished = True
                return
            if not self._has_ended_for_some():
                self._gathering_since = self._enough_since = None
                return
        if self._gathering_since is None:
            self._gathering_since = now
        if self._can_begin(now, now - self._gathering_since):
            self._begin_round()

    def _can_begin(self, now: float, gathering_seconds: float) -> bool:
        """Whether the next round can begin with the nodes that are ready."""
        if self.should_look_around:
            return False
        reports = [attendee.report for attendee in self._attendees.values()]
        known = [report for report in reports if report.former or self._is_member(report.node.token)]
        if any(report.status not in (Status.READY, Status.LEAVING) for report in known):
            return False  # their processes are still being stopped
        chosen = self._choose()
        if len(chosen) < self.limits.min_nodes or chosen[0] != self.host:
            self._enough_since = None
            return False
        if self._enough_since is None:
            self._enough_since = now
        if len(chosen) == self.limits.max_nodes:
            return True
        former = {token for report in reports for token in report.former}
        if former or self.round is not None:
            missing = former - self._gone - self._attendees.keys()
            return not missing or gathering_seconds >= self.limits.remeet
        return now - self._enough_since >= self.limits.last_call

    def _begin_round(self) -> None:
        number = 1 if self.round is None else self.round.number + 1
        self.round = Round(number, tuple(self._choose()), self.pick_port())
        self.trouble, self._has_left = None, False
        self._gathering_since = self._enough_since = None

    def _refuse_other_processes(self, report: Report) -> str | None:
        """The verdict if a node starts another number of processes than the host; torch needs them equal here."""
        host = self._attendees.get(self.host.token)
        if host is None or host.report.processes == report.processes:
            return None
        sentence = (
            f"node {report.node.index} starts {report.processes} processes, and node {self.host.index} starts "
            f"{host.report.processes}; give --nproc-per-node the same number on all nodes"
        )
        return exit_report.to_json(Failure(Cause.USER_ERROR, sentence))
