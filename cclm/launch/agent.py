"""torchrun's agent with a judgement: what may be tried again is, and what cannot help ends at once.

Besides cclm.distributed the only module that touches torch.distributed. It relies on these parts of torch's
`LocalElasticAgent`, which are not public: `_monitor_workers`, `_start_workers`, `_restart_workers`, `_shutdown`,
`_remaining_restarts`, `_pcontext`; tests/integration/test_launch.py fails where they change.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable
from dataclasses import replace

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from cclm.launch import report
from cclm.launch.attempts import Attempts
from cclm.launch.causes import EXIT_PREEMPTED, Cause, Failure, of_exit_code, root_cause, sentence

_VERDICT = "cclm/verdict"
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
        return result

    def _judge(self, result: RunResult, first: set[int]) -> None:
        """Find out why the processes failed, and set how many restarts are left accordingly."""
        failures = [
            replace(failure_of(failed), rank=rank)
            for rank, failed in sorted(result.failures.items())
            if not first or failed.local_rank in first or not _was_sent_away(failed)
        ]
        hangs = Failure(Cause.HARDWARE, "hangs in the kernel, as it does when a GPU or a network card fails")
        self.failure = failure = root_cause(failures) if failures else hangs
        may_restart = self._remaining_restarts > 0
        if failure.cause in _FREE and self._may_wait:
            self._remaining_restarts += 1
            self._say(f"{sentence(failure)}; going on with the nodes that are left")
        elif failure.cause.may_retry and failure.cause not in (Cause.PREEMPTED, Cause.INTERRUPTED) and may_restart:
            limit = self._worker_group.spec.max_restarts
            number = limit - self._remaining_restarts + 1
            self._say(f"{sentence(failure)}; restarting from the newest checkpoint (restart {number} of {limit})")
        else:
            self._remaining_restarts = 0

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int | None = None) -> None:
        """Stop the processes. A second signal while they save must not cut that short."""
        before = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # not the main thread
                before[number] = signal.signal(number, signal.SIG_IGN)
        alive = self._alive()
        try:
            super()._shutdown(death_sig, self._grace)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        handlers = self._pcontext.subprocess_handlers if self._pcontext else {}
        self.killed = [rank for rank in alive if handlers[rank].proc.poll() == -signal.SIGKILL]

    def _alive(self) -> list[int]:
        handlers = self._pcontext.subprocess_handlers if self._pcontext else {}
        return [rank for rank, handler in handlers.items() if handler.proc.poll() is None]

    def end_for_all(self, failure: Failure | None) -> None:
        """End the rendezvous: no node needs to wait for this run any more. `failure` says why, if it failed."""
        with contextlib.suppress(Exception):  # the store may be gone, and torch has many ways to say so
            if failure is not None:
                self._store.set(_VERDICT, report.to_json(failure))
            self._rdzv_handler.shutdown()

    def shared_verdict(self) -> Failure | None:
        """Why another node ended the run; None if nobody said."""
        with contextlib.suppress(Exception):
            if self._store.check([_VERDICT]):
                return report.read(json.loads(self._store.get(_VERDICT)))
        return None


def failure_of(failed: ProcessFailure) -> Failure:
    """Why a process failed: by its own word if it left one, else by its exit code."""
    return report.read(failed.error_file_data) or of_exit_code(failed.exitcode)


def _was_sent_away(failed: ProcessFailure) -> bool:
    """Whether a process that did not end first may have ended by the signals that the agent then sent."""
    return failed.exitcode in (-signal.SIGTERM, -signal.SIGKILL, EXIT_PREEMPTED) and not report.read(failed.error_file_data)
