"""A node's part in the meetings of its run: it finds the meeting or hosts one, takes part in rounds, and leaves.

A thread of its own reports to the host twice a second, so the host hears of this node while the main thread stops
processes or waits. The main thread only looks at the newest answer. So it never hangs on a network that was cut, and
signals are handled at once. No torch.
"""

from __future__ import annotations

import errno
import itertools
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cclm.errors import UserError
from cclm.launch.causes import Cause
from cclm.launch.meeting import Limits, Node, Report, Round, Status, Trouble, View, best_place
from cclm.launch.meeting_addresses import Address
from cclm.launch.meeting_link import REPORT_SECONDS, Link
from cclm.launch.meeting_server import MeetingServer, ask_all

_LOOK_SECONDS = 0.05
_ASK_AGAIN_SECONDS = 0.5
_GOODBYE_SECONDS = 5.0
"""How long a node that leaves waits until the host has heard so."""
_LAST_SECONDS = 30.0
"""How long a host waits at the end until the others know it. Those that missed the end would begin again."""
_HOST_SECONDS = 180.0
"""How long the others wait after success until the host is gone. It may wait for the last scrape of its metrics."""
_FOUND_ANYWAY_SECONDS = 15.0
"""How long a node waits for one of a lower index to host. That one may take long to stop its processes."""
_PORT_SECONDS = 30.0
"""How long a port may be in use by a launcher that is about to end."""
_NOTICE_SECONDS = 30.0
"""A longer wait for nodes is told, and again each time it has become twice as long."""
_KEPT_TOKENS = 1000


class RunIsOver(Exception):
    """The run has succeeded without this node."""


class RunEnded(Exception):
    """Another node has ended the run for all; the argument is its report (`cclm.launch.exit_report`)."""


class MeetingTimeout(Exception):
    """Too few nodes came."""


@dataclass(frozen=True)
class JoinedRound:
    """A round as this node sees it."""

    round: Round
    rank: int
    """Of this node."""
    host_address: str
    """Where the host is reached from here."""


class Membership:
    """Takes part in the meetings of a run.

    Args:
        addresses: where the nodes listen, by index.
        index: of this node. One without an address takes part, but can host no meeting.
        processes: that this node starts.
        notify: gets sentences about long waits.
        stay_seconds: how long the other nodes stay after the host's process when the run has succeeded; 0: nobody
            waits for that process to end.

    Raises:
        UserError: the port of this node is in use.
    """

    def __init__(
        self,
        addresses: list[Address],
        index: int,
        run_id: str,
        limits: Limits,
        processes: int,
        notify: Callable[[str], None],
        stay_seconds: float = 0.0,
    ) -> None:
        self._addresses = dict(enumerate(addresses))
        self._index, self._run_id, self._limits, self._processes = index, run_id, limits, processes
        self._notify, self._stay_seconds = notify, stay_seconds
        self._lock = threading.Lock()
        self._node = Node(index, uuid.uuid4().hex)
        self._status = Status.BUSY
        self._round_number = 0
        self._former: tuple[str, ...] = ()
        self._lost: list[str] = []
        self._trouble: Trouble | None = None
        self._verdict: str | None = None
        self._link: Link | None = None
        self._server: MeetingServer | None = None
        self._is_disconnected = False
        self._seeking_since: float | None = None
        """Since when this node looks for a place to meet; None while it has one."""
        others = {other: address for other, address in self._addresses.items() if other != index}
        self._others = others
        if index in self._addresses:
            self._server = _listen(self._addresses[index].port, run_id, others)

    @property
    def is_host(self) -> bool:
        """Whether the present meeting is here."""
        return self._link is not None and self._link.address == self._addresses.get(self._index)

    @property
    def is_finished(self) -> bool:
        """Whether the run has succeeded on all nodes."""
        view = self._view()
        return view is not None and view.is_finished

    @property
    def verdict(self) -> str | None:
        """Why a node has ended the run for all, as `cclm.launch.exit_report` writes it."""
        view = self._view()
        return None if view is None else view.verdict

    def enter(self, timeout: float) -> None:
        """Join a meeting, or host one, unless this node is in one already.

        Args:
            timeout: seconds.

        Raises:
            MeetingTimeout: no other node could be reached, and this one can host no meeting.
        """
        self._set(status=Status.BUSY)
        self._enter(time.monotonic() + timeout)

    def _enter(self, deadline: float) -> None:
        while True:
            if self._link is not None and self._link.lost is None:
                view = self._link.view
                if view is not None and not view.is_dissolved:
                    return
                if view is None:
                    self._pause(deadline, _LOOK_SECONDS)
                    continue
            if self._link is not None and self._link.view is None:  # the host has gone meanwhile
                self._pause(deadline, _ASK_AGAIN_SECONDS)
            self._forget_meeting()
            self._find_meeting(deadline)

    def next_round(self, timeout: float) -> JoinedRound:
        """Wait for the next round.

        Args:
            timeout: seconds. Where others train already, and have no place for this node, it waits without limit.

        Raises:
            RunIsOver: the run has succeeded meanwhile.
            RunEnded: another node has ended the run for all.
            MeetingTimeout: too few nodes came.
        """
        start = time.monotonic()
        deadline = start + timeout
        waits = (start + _NOTICE_SECONDS * 2**doubled for doubled in itertools.count())
        next_notice = next(waits)
        while True:
            self._enter(deadline)
            self._set(status=Status.READY)
            link = self._link
            while link is not None and link.lost is None:
                view = link.view
                if view is None or view.is_dissolved:
                    break
                if view.verdict is not None:
                    raise RunEnded(view.verdict)
                if view.is_finished:
                    raise RunIsOver
                if (joined := self._joined(view, link)) is not None:
                    return joined
                if view.round is not None and view.trouble is None:
                    deadline = time.monotonic() + timeout
                elif time.monotonic() > next_notice:
                    next_notice = next(waits)
                    self._notify(self._waiting_sentence(view, time.monotonic() - start))
                self._pause(deadline, _LOOK_SECONDS)

    def trouble(self) -> Trouble | None:
        """Why the present round has ended hard on another node; None while it goes on.

        A host that has left in good order is a trouble of cause PEER_STOPPED.
        """
        link = self._link
        if link is None:
            return Trouble(None, "the nodes meet no longer")
        view = link.view
        if link.lost is not None:
            where = f"the node where all meet, {link.address}"
            if view is not None and view.is_host_leaving:
                return Trouble(Cause.PEER_STOPPED.name, f"{where}, has left")
            return Trouble(None, f"lost {where} ({link.lost})")
        if view is None:
            return None
        if view.is_dissolved:
            return Trouble(None, "other nodes of this run have met elsewhere; joining them")
        if view.round is not None and view.round.number > self._round_number:
            return Trouble(None, "the other nodes have begun anew")
        return view.trouble

    def explain(self, seconds: float) -> Trouble | None:
        """The trouble of the present round, waited for; None if no node tells of one."""
        deadline = time.monotonic() + seconds
        while (trouble := self.trouble()) is None and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        return trouble

    def is_node_joining(self) -> bool:
        """Whether the present round should end softly, since another node wants to take part."""
        view = self._view_of_round()
        return view is not None and view.is_node_joining

    def has_node_left(self) -> bool:
        """Whether the present round should end softly, since a node has left in good order."""
        view = self._view_of_round()
        return view is not None and view.has_node_left

    def report_trouble(self, trouble: Trouble) -> None:
        """Tell the others why this node's part of the present round has failed."""
        self._set(trouble=trouble)

    def report_done(self) -> None:
        """Tell the others that the processes of this node have succeeded."""
        self._set(status=Status.DONE)

    def end(self, verdict: str) -> None:
        """End the run for all nodes.

        Args:
            verdict: as `cclm.launch.exit_report` writes it.
        """
        self._set(verdict=verdict)
        self._disconnect()

    def leave(self, trouble: Trouble | None) -> None:
        """Leave for good; a node that hosts the meeting stays until the others know.

        Args:
            trouble: why the present round has failed here; None if it has not.
        """
        if trouble is not None and self._trouble is None:
            self._set(trouble=trouble)
        self._set(status=Status.LEAVING)
        self._disconnect()

    def close(self) -> None:
        """After the end: let the others read it, then be gone. After success the host goes first."""
        is_guest_of_success = self.is_finished and not self.is_host and not self._is_disconnected
        if is_guest_of_success:
            self._set(status=Status.LEAVING)
        self._disconnect(until_alone=True)
        if is_guest_of_success:
            time.sleep(self._stay_seconds)

    def _disconnect(self, *, until_alone: bool = False) -> None:
        """Wait until the host has heard the present state, and where this node hosts, until the others have.

        Args:
            until_alone: wait for the others: the host until they are gone or know of the success, and after success
                each of them until the host is gone.
        """
        if self._is_disconnected:
            return
        self._is_disconnected = True
        deadline = time.monotonic() + (_LAST_SECONDS if until_alone else _GOODBYE_SECONDS)
        link, report = self._link, self._report()
        if link is not None:
            while link.lost is None and link.answered != report and time.monotonic() < deadline:
                time.sleep(_LOOK_SECONDS)
            if self.is_host and self._server is not None and self._server.others():
                if not until_alone:
                    deadline = min(deadline, time.monotonic() + 3 * REPORT_SECONDS)
                while self._server.others() and time.monotonic() < deadline:
                    time.sleep(_LOOK_SECONDS)
            elif until_alone and self.is_finished and not self.is_host:
                deadline = time.monotonic() + _HOST_SECONDS
                while link.lost is None and time.monotonic() < deadline:
                    time.sleep(_LOOK_SECONDS)
        stays_open = until_alone and self.is_finished and self.is_host and self._stay_seconds > 0
        if link is not None and not stays_open:
            link.close()
        if self._server is not None and not stays_open:  # else the end of its process tells the others
            self._server.close()

    def _joined(self, view: View, link: Link) -> JoinedRound | None:
        """The round that has begun with this node; None if none has."""
        new = view.round
        if new is None or new.number <= self._round_number or view.trouble is not None:
            return None
        rank = new.rank_of(self._node.token)
        if rank is None:
            return None
        former = tuple(node.token for node in new.members)
        with self._lock:
            self._round_number, self._former, self._trouble, self._status = new.number, former, None, Status.BUSY
        link.send_soon()
        return JoinedRound(new, rank, link.host_address)

    def _find_meeting(self, deadline: float) -> None:
        answers = ask_all(self._others, self._run_id)
        place = best_place(self._index, answers)
        now = time.monotonic()
        self._seeking_since = now if self._seeking_since is None else self._seeking_since
        if place is None and now - self._seeking_since > _FOUND_ANYWAY_SECONDS:
            place = self._index
        if place == self._index and self._server is not None:
            self._server.host(self._node, self._limits)
        if place not in self._addresses:
            self._pause(deadline, _ASK_AGAIN_SECONDS)
            return
        self._seeking_since = None
        # This node need not know itself by its name.
        own = Address("localhost", self._addresses[place].port) if place == self._index else None
        self._link = Link(self._addresses[place], own, self._run_id, self._report, self._limits.silence)

    def _forget_meeting(self) -> None:
        """Enter the next meeting as somebody new."""
        link, self._link = self._link, None
        if link is None:
            return
        link.close()
        if self._server is not None:
            self._server.abandon()
        with self._lock:
            if link.view is not None and link.view.round is not None and link.lost is not None:
                self._lost.append(link.view.round.members[0].token)
            self._lost = [*self._lost, self._node.token][-_KEPT_TOKENS:]
            self._node = Node(self._index, uuid.uuid4().hex)
            self._round_number, self._trouble = 0, None

    def _report(self) -> Report:
        with self._lock:
            return Report(
                node=self._node, status=self._status, round_number=self._round_number, processes=self._processes,
                former=self._former, lost=tuple(self._lost), trouble=self._trouble, verdict=self._verdict,
            )  # fmt: skip

    def _set(self, *, status: Status | None = None, trouble: Trouble | None = None, verdict: str | None = None) -> None:
        with self._lock:
            self._status = status or self._status
            self._trouble = trouble or self._trouble
            self._verdict = verdict or self._verdict
        if self._link is not None:
            self._link.send_soon()

    def _view(self) -> View | None:
        """The newest one. It still counts when the connection has ended, as a host that ends the run does soon."""
        return None if self._link is None else self._link.view

    def _view_of_round(self) -> View | None:
        """The newest one; None if it is not about the round in which this node takes part."""
        view = self._view()
        if view is None or view.round is None or view.round.number != self._round_number:
            return None
        return view

    def _pause(self, deadline: float, seconds: float) -> None:
        if time.monotonic() > deadline:
            raise MeetingTimeout
        time.sleep(seconds)

    def _waiting_sentence(self, view: View, seconds: float) -> str:
        here = ", ".join(map(str, view.indexes))
        wanted = f"{self._limits.min_nodes} to {self._limits.max_nodes} nodes"
        return f"waiting for nodes since {seconds:.0f} s: of {wanted}, node {here} is here"


def _listen(port: int, run_id: str, peers: Mapping[int, Address]) -> MeetingServer:
    """A server at the port of this node. Raises UserError."""
    deadline = time.monotonic() + _PORT_SECONDS
    while True:
        try:
            return MeetingServer(port, run_id, peers)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise UserError(f"the rendezvous port {port} cannot be used: {error.strerror or error}") from None
        time.sleep(_ASK_AGAIN_SECONDS)
