"""torchrun's agent with a judgement: what may be tried again is, and what cannot help ends at once.

Besides cclm.distributed the only module that touches torch.distributed. It relies on these parts of torch's
`LocalElasticAgent`, which are not public: `_monitor_workers`, `_start_workers`, `_restart_workers`, `_shutdown`,
`_remaining_restarts`, `_pcontext`, and of the c10d rendezvous `_state_holder`, `_this_node`, `_op_executor`;
tests/integration/{test_launch,test_elastic}.py fail where they change.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable
from dataclasses import replace

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _RendezvousExitOp

from cclm.launch import exit_report
from cclm.launch.attempts import Attempts
from cclm.launch.causes import Cause, Failure, classify_exit_code, describe, root_cause
from cclm.launch_contract import EXIT_PREEMPTED

_VERDICT = "cclm/verdict"
_TIME_TO_READ = 5.0  # s that the node which may hold the store stays, so that the others learn why the run ended
_FREE = (Cause.PEER_STOPPED,)
"""Causes that use up no restart: another node was taken away, which says nothing about this one."""


class Agent(LocalElasticAgent):
    """Starts the training processes of one node, watches them, and restarts them where that can help."""

    def __init__(
        self, spec: WorkerSpec, *, attempts: Attempts | None, grace: int, may_wait: bool, say: Callable, **settings
    ) -> None:
        """
        Args:
            attempts: the count of starts, if the command has a place for it.
            grace: seconds that processes get to save and leave before they are killed.
            may_wait: whether to meet again when another node was preempted, rather than to leave as well.
            say: prints a line.
            settings: of LocalElasticAgent.
        """
        super().__init__(spec, shutdown_timeout=grace, **settings)
        self._attempts, self._grace, self._may_wait, self._say = attempts, grace, may_wait, say
        self.failure: Failure | None = None
        """The last one; of this node, or the verdict of another."""
        self.killed: list[int] = []
        """Local ranks that did not leave within the grace period."""

    @property
    def leads(self) -> bool:
        """Whether this node counts the attempts of all."""
        return self._worker_group.group_rank == 0

    def _start_workers(self, worker_group: WorkerGroup) -> dict:
        if self._attempts and self.leads:
            self._attempts.begin()
        return super()._start_workers(worker_group)

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        by_members = worker_group.state == WorkerState.HEALTHY
        if by_members:
            self._say("another node wants to join; saving, then going on together")
        if self._attempts and self.leads and (by_members or self.failure.cause in _FREE):
            self._attempts.take_back()
        super()._restart_workers(worker_group)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        handlers = self._pcontext.subprocess_handlers
        # Who died on its own, before the agent sends the others after it.
        first = {rank for rank, handler in handlers.items() if handler.proc.poll() not in (None, 0)}
        if first:
            self._shutdown(timeout=self._grace)
        result = super()._monitor_workers(worker_group)
        if result.state in (WorkerState.FAILED, WorkerState.UNHEALTHY):
            self._judge(result, first)
        elif result.state == WorkerState.HEALTHY and not self._is_member():
            self._say("the other nodes took this one for dead and may go on without it; joining them")
            super()._restart_workers(worker_group)
        return result

    def _is_member(self) -> bool:
        """Whether this node is still one of the group.

        torch removes a node whose heartbeats are late (a starved machine, a clock that is off) and does not tell it: it
        would go on, alone, beside the others. As of the last look at the store; True where that cannot be known.
        """
        with contextlib.suppress(AttributeError):  # not the c10d rendezvous
            return self._rdzv_handler._this_node in self._rdzv_handler._state_holder.state.participants
        return True

    def leave(self) -> None:
        """Tell the other nodes that this one is gone, so that they need not wait for its heartbeats to stay away."""
        with contextlib.suppress(Exception):  # the store may be gone; and then heartbeats tell
            handler = self._rdzv_handler
            handler._stop_heartbeats()
            handler._op_executor.run(_RendezvousExitOp(), time.monotonic() + _TIME_TO_READ)

    def _judge(self, result: RunResult, first: set[int]) -> None:
        """Find out why the processes failed, and set how many restarts are left accordingly."""
        failures = [
            replace(failure_of(failed), rank=rank)
            for rank, failed in sorted(result.failures.items())
            if not first or failed.local_rank in first or not _was_sent_away(failed)
        ]
        hangs = Failure(Cause.HARDWARE, "hangs in the kernel, as it does when a GPU or a network card fails")
        self.failure = failure = self.shared_verdict() or (root_cause(failures) if failures else hangs)
        may_restart = self._remaining_restarts > 0
        if failure.cause in _FREE and self._may_wait:
            self._remaining_restarts += 1
            self._say(f"{describe(failure)}; going on with the nodes that are left")
        elif failure.cause.may_retry and failure.cause not in (Cause.PREEMPTED, Cause.INTERRUPTED) and may_restart:
            limit = self._worker_group.spec.max_restarts
            number = limit - self._remaining_restarts + 1
            self._say(f"{describe(failure)}; restarting from the newest checkpoint (restart {number} of {limit})")
        else:
            self._remaining_restarts = 0

    def _shutdown(self, death_sig: signal.Signals | None = None, timeout: int | None = None) -> None:
        """Stop the processes. A signal while they save must not cut that short, but it is not forgotten either.

        Args:
            death_sig: the signal that makes the agent leave; None where it stops processes for another reason.
        """
        came: list[int] = []
        before = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # not the main thread
                before[number] = signal.signal(number, lambda number, _: came.append(number))
        alive = self._alive()
        try:
            super()._shutdown(death_sig or signal.SIGTERM, self._grace)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        handlers = self._pcontext.subprocess_handlers if self._pcontext else {}
        self.killed = [rank for rank in alive if handlers[rank].proc.poll() == -signal.SIGKILL]
        if came and alive and death_sig is None:
            raise SignalException("a signal came while processes were stopped", signal.Signals(came[0]))

    def _alive(self) -> list[int]:
        handlers = self._pcontext.subprocess_handlers if self._pcontext else {}
        return [rank for rank, handler in handlers.items() if handler.proc.poll() is None]

    def end_for_all(self, failure: Failure | None) -> None:
        """End the rendezvous: no node needs to wait for this run any more. `failure` says why, if it failed."""
        with contextlib.suppress(Exception):  # the store may be gone, and torch has many ways to say so
            if failure is not None:
                self._store.set(_VERDICT, exit_report.to_json(failure))
            self._rdzv_handler.shutdown()
            if failure is not None and self._worker_group.group_world_size > 1:
                time.sleep(_TIME_TO_READ)

    def shared_verdict(self) -> Failure | None:
        """Why another node ended the run; None if nobody said."""
        with contextlib.suppress(Exception):
            if self._store.check([_VERDICT]):
                return exit_report.parse(json.loads(self._store.get(_VERDICT)))
        return None


def failure_of(failed: ProcessFailure) -> Failure:
    """Why a process failed: by its own word if it left one, else by its exit code."""
    return exit_report.parse(failed.error_file_data) or classify_exit_code(failed.exitcode)


def _was_sent_away(failed: ProcessFailure) -> bool:
    """Whether a process that did not end first may have ended by the signals that the agent then sent."""
    return failed.exitcode in (-signal.SIGTERM, -signal.SIGKILL, EXIT_PREEMPTED) and not exit_report.parse(
        failed.error_file_data
    )
