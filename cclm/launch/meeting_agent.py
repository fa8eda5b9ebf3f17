"""torchrun's agent for jobs whose nodes all can host the meeting (`cclm.launch.meeting`), such as a job's pods.

Where the stock rendezvous depends on the node that holds its store, this agent outlives any node: it stops its
processes when a round has broken, and meets the others again where they are.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from torch.distributed import HashStore  # type: ignore[attr-defined]  # torch makes it public in another way
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo
from torch.distributed.elastic.rendezvous.api import RendezvousTimeoutError

from cclm.events import NodeJoining, NodeLeft, RoundBroken
from cclm.launch import exit_report
from cclm.launch.agent import Agent, Start
from cclm.launch.causes import Cause, Failure, describe
from cclm.launch.meeting import Trouble
from cclm.launch.membership import MeetingTimeout, Membership

_CONSEQUENCES = {Cause.LOST_PEER: 5.0, Cause.COLLECTIVE_TIMEOUT: 0.0}
"""Failures that another node may have caused, and the seconds to wait for that node's report. Nodes learn of a loss
within a second or two. A node that has waited for the end of a collective has waited long enough."""


@contextlib.contextmanager
def _timeouts_of_torch() -> Iterator[None]:
    try:
        yield
    except MeetingTimeout:
        raise RendezvousTimeoutError from None


class MeetingHandler(RendezvousHandler):
    """The meeting as torch's agent wants a rendezvous.

    Args:
        join_timeout: seconds that a node waits for enough others.
    """

    def __init__(self, membership: Membership, run_id: str, join_timeout: float, local_addr: str | None) -> None:
        self.membership, self._run_id, self._join_timeout = membership, run_id, join_timeout
        self._local_addr = local_addr

    def get_backend(self) -> str:
        return "c10d"

    @property
    def use_agent_store(self) -> bool:
        return False

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait for the next round.

        Raises:
            RunIsOver, RunEnded: there will be none.
            RendezvousTimeoutError: too few nodes came within the join timeout.
        """
        with _timeouts_of_torch():
            joined = self.membership.next_round(self._join_timeout)
        # The agent keeps nothing in the store, as `cclm.launch.torchrun` lets it compute ranks without one.
        address = joined.host_address if joined.rank or self._local_addr is None else self._local_addr
        place = RendezvousStoreInfo(address, joined.round.master_port)
        return RendezvousInfo(HashStore(), joined.rank, len(joined.round.members), place)

    def enter(self) -> None:
        """Be in a meeting before the next round. Raises RendezvousTimeoutError."""
        with _timeouts_of_torch():
            self.membership.enter(self._join_timeout)

    def is_closed(self) -> bool:
        return self.membership.is_finished or self.membership.verdict is not None

    def set_closed(self) -> None:
        self.membership.close()

    def num_nodes_waiting(self) -> int:
        """0: `MeetingAgent` itself looks for nodes that join, as it must tell them from nodes that leave."""
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        self.membership.close()
        return True


class MeetingAgent(Agent):
    """Starts the training processes of one node, round by round."""

    def __init__(self, spec: WorkerSpec, *, handler: MeetingHandler, **settings: Any) -> None:
        super().__init__(spec, **settings)
        self._handler, self._membership = handler, handler.membership
        self._outlives_preempted_nodes = True
        self._success: RunResult | None = None
        """Of the processes of this node, while those of other nodes still run."""

    def _prepare_to_meet(self) -> None:
        self._handler.enter()
        if self._membership.is_host:  # the others need not wait a second time
            super()._prepare_to_meet()

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        if (failure := self.shared_verdict()) is not None:
            self.failure, self._remaining_restarts = failure, 0
            self._stop_soon()
            return RunResult(WorkerState.UNHEALTHY)
        result = self._success or super()._monitor_workers(worker_group)
        if result.state == WorkerState.SUCCEEDED:
            if self._success is None:
                self._success = result
                self._membership.report_done()
            if self._membership.is_finished:
                return result
            result = RunResult(WorkerState.HEALTHY)
        if result.state == WorkerState.HEALTHY:
            self._look_at_round(worker_group)
        return result

    def _look_at_round(self, worker_group: WorkerGroup) -> None:
        """Begin the next round where the present one should end, because of other nodes."""
        restarts_left = self._remaining_restarts
        if (trouble := self._membership.trouble()) is not None:
            self._emit_round_broken(trouble)
            if not _is_in_good_order(trouble):
                self._stop_soon()
            self._begin_again(worker_group, _start_after(trouble))
        elif self._membership.has_node_left():
            self._journal.emit(NodeLeft(Cause.PEER_STOPPED.name, "another node has left", restarts_left))
            self._begin_again(worker_group, Start.FREE)
        elif self._success is None and self._membership.is_node_joining():
            self._journal.emit(NodeJoining(worker_group.group_world_size or 1, restarts_left))
            self._begin_again(worker_group, Start.FREE)

    def _begin_again(self, worker_group: WorkerGroup, start: Start) -> None:
        self._success = None
        super()._begin_again(worker_group, start)

    def _emit_round_broken(self, trouble: Trouble) -> None:
        cause = trouble.cause or Cause.LOST_PEER.name
        self._journal.emit(RoundBroken(cause, trouble.reason, self._remaining_restarts))

    def _settle_by_others(self, failure: Failure) -> bool:
        """Whether another node is to blame for a failure here: then it uses up no restart."""
        if failure.cause not in _CONSEQUENCES:
            return False
        trouble = self._membership.explain(_CONSEQUENCES[failure.cause])
        if trouble is None:
            return False
        self._emit_round_broken(trouble)
        self._next_start = _start_after(trouble)
        return True

    def _notify_others(self, failure: Failure) -> None:
        self._membership.report_trouble(self._trouble_of(failure))

    def _trouble_of(self, failure: Failure) -> Trouble:
        return Trouble(failure.cause.name, f"on another node: {describe(failure)}")

    def _exit_barrier(self) -> None:
        """Nothing: the nodes have agreed on success already."""

    def leave(self, failure: Failure) -> None:
        is_quiet = failure.cause in (Cause.PREEMPTED, Cause.INTERRUPTED, Cause.PEER_STOPPED)
        self._membership.leave(None if is_quiet else self._trouble_of(failure))

    def end_for_all(self, failure: Failure | None) -> None:
        if failure is not None and self._membership.verdict is None:
            self._membership.end(exit_report.to_json(failure))
        self._membership.close()

    def shared_verdict(self) -> Failure | None:
        verdict = self._membership.verdict
        return None if verdict is None else exit_report.parse(json.loads(verdict))


def _start_after(trouble: Trouble) -> Start:
    """What the start that follows counts as."""
    if trouble.cause is None:
        return Start.AFTER_LOSS
    is_free = trouble.cause in (Cause.PEER_STOPPED.name, Cause.PREEMPTED.name, Cause.INTERRUPTED.name)
    return Start.FREE if is_free else Start.COUNTED


def _is_in_good_order(trouble: Trouble) -> bool:
    """Whether the processes of all nodes save and leave together, and need time for that."""
    return trouble.cause == Cause.PEER_STOPPED.name
