"""torchrun's agent that decides by the cause of a failure whether to restart or to end.

It overrides and calls parts of torch's `LocalElasticAgent` and of the c10d rendezvous that are not public;
`cclm.launch.torch_internals` lists them. `tests/test_layout.py` lists the modules that use torch.distributed.
"""

from __future__ import annotations

import contextlib
import enum
import json
import signal
import subprocess
import time
from dataclasses import replace
from functools import partial
from typing import Any

from torch.distributed.distributed_c10d import Store
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import LogsSpecs, SignalException, SubprocessContext
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler, _RendezvousExitOp

from cclm.events import Journal, NodeJoining, NodeLeft, NodesMet, Rejoining, Restarted, WaitingForNodes
from cclm.launch import exit_report
from cclm.launch.attempts import Attempts
from cclm.launch.causes import Cause, Failure, classify_exit_code, describe, root_cause
from cclm.launch.memory_limit import MemoryLimit
from cclm.launch.pauses import Pauses
from cclm.launch.store_calls import interruptible
from cclm.launch_contract import EXIT_INTERRUPTED, EXIT_PEER_STOPPED, EXIT_PREEMPTED
from cclm.signals import signals_noted

_VERDICT_KEY = "cclm/verdict"
"""Key in the store of the rendezvous: why a node ended the run for all."""
_SECONDS_TO_READ = 5.0
"""How long a node that may hold the store stays after the end, so that the others can read the verdict."""
_FREE_CAUSES = (Cause.PEER_STOPPED,)
"""Causes that use up no restart: another node was taken away, which says nothing about this one."""
_CODES_OF_STOPPED = (
    -signal.SIGTERM, -signal.SIGINT, EXIT_PREEMPTED, EXIT_INTERRUPTED, EXIT_PEER_STOPPED,
)  # fmt: skip
"""Exit codes of processes that end in good order. The others then do so, too, and may still be saving."""
BROKEN_GRACE_SECONDS = 10
"""How long processes may take to leave when others are lost; `--shutdown-timeout` if that is shorter."""


class Start(enum.Enum):
    """What a start of the processes counts as, by how the last one ended."""

    COUNTED = enum.auto()
    """A new attempt: a process has failed, or this is the first start."""
    FREE = enum.auto()
    """None: nodes came or left in good order."""
    AFTER_LOSS = enum.auto()
    """Not a new attempt either, unless nodes are lost again and again."""


class Agent(LocalElasticAgent):
    """Starts the training processes of one node, watches them, and restarts them where that can help."""

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        journal: Journal,
        attempts: Attempts | None,
        grace_seconds: int,
        min_nodes: int,
        max_nodes: int,
        logs_specs: LogsSpecs,
        start_method: str,
        log_line_prefix_template: str | None,
    ) -> None:
        """
        Args:
            journal: gets an event for whatever happens to the processes or to the group of nodes.
            attempts: the count of starts; None if the command saves nothing, and so has no place for it.
            grace_seconds: how long processes may take to save and leave before they are killed.
            min_nodes: the fewest nodes that the run goes on with.
            max_nodes: the most nodes that it uses.
        """
        super().__init__(
            spec,
            logs_specs,
            start_method=start_method,
            log_line_prefix_template=log_line_prefix_template,
            shutdown_timeout=grace_seconds,
        )
        self._journal, self._attempts, self._grace_seconds = journal, attempts, grace_seconds
        self._min_nodes, self._max_nodes = min_nodes, max_nodes
        self._pause, self._memory = Pauses(journal), MemoryLimit()
        self._outlives_preempted_nodes = spec.max_restarts > 0 or min_nodes < max_nodes
        """Whether to meet again when another node was preempted, rather than to leave as well."""
        self._next_start = Start.COUNTED
        self.failure: Failure | None = None
        """The last failure: of this node, or the verdict of another one."""
        self.killed: list[int] = []
        """Local ranks of processes that did not leave within the grace period."""

    @property
    def is_leader(self) -> bool:
        """Whether this node counts the attempts for all nodes."""
        return self._worker_group.group_rank == 0

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        self._journal.emit(WaitingForNodes(self._min_nodes, self._max_nodes))
        self._prepare_to_meet()
        start = time.monotonic()
        super()._rendezvous(worker_group)
        self._journal.emit(
            NodesMet(
                nodes=worker_group.group_world_size or 1,
                min_nodes=self._min_nodes,
                max_nodes=self._max_nodes,
                node_rank=worker_group.group_rank or 0,
                processes=worker_group.workers[0].world_size,
                seconds=time.monotonic() - start,
            )
        )

    def _prepare_to_meet(self) -> None:
        """Wait before a start that follows upon failures, as the scheduler may not."""
        if self._next_start is Start.COUNTED:
            self._pause.before_start(self._attempts)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        if self._attempts is not None and self.is_leader:
            if self._next_start is not Start.COUNTED:
                take_back = partial(self._attempts.take_back, is_loss=self._next_start is Start.AFTER_LOSS)
                self._journal.emit(self._attempts.counted(interruptible(take_back)))
            self._journal.emit(self._attempts.counted(interruptible(self._attempts.begin)))
        self._next_start = Start.COUNTED
        process_ids: dict[int, Any] = super()._start_workers(worker_group)
        return process_ids

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        is_node_joining = worker_group.state == WorkerState.HEALTHY
        if is_node_joining:
            self._journal.emit(NodeJoining(worker_group.group_world_size or 1, self._remaining_restarts))
        self._begin_again(worker_group, Start.FREE if is_node_joining else self._next_start)

    def _begin_again(self, worker_group: WorkerGroup, start: Start) -> None:
        """Stop the processes, meet, and start them again."""
        self._next_start = start
        super()._restart_workers(worker_group)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        # Those that died on their own must be known before the agent stops the others.
        codes = {rank: process.poll() for rank, process in self._processes().items()}
        died_first = {rank: code for rank, code in codes.items() if code not in (None, 0)}
        if died_first:
            if any(code not in _CODES_OF_STOPPED for code in died_first.values()):
                self._stop_soon()
            else:
                self._shutdown(timeout=self._grace_seconds)
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state in (WorkerState.FAILED, WorkerState.UNHEALTHY):
            self._judge(result, set(died_first))
        elif result.state == WorkerState.HEALTHY and not self._is_member():
            self._journal.emit(Rejoining(self._remaining_restarts))
            self._begin_again(worker_group, Start.COUNTED)
        return result

    def _stop_soon(self) -> None:
        """Stop processes that have lost others. They cannot save together, and may hang in a collective."""
        usual, self._grace_seconds = self._grace_seconds, min(self._grace_seconds, BROKEN_GRACE_SECONDS)
        try:
            self._shutdown()
        finally:
            self._grace_seconds = usual

    def _processes(self) -> dict[int, subprocess.Popen[bytes]]:
        """The training processes of this node, by local rank; empty before the first start."""
        if not isinstance(self._pcontext, SubprocessContext):
            return {}
        return {rank: handler.proc for rank, handler in self._pcontext.subprocess_handlers.items()}

    def _is_member(self) -> bool:
        """Whether this node is still one of the group, as of the last look at the store.

        torch removes a node whose heartbeats are late (a starved machine, a clock that is off) and does not tell it.
        Such a node would go on alone, beside the others. True where it cannot be known: only the c10d rendezvous
        keeps a list.
        """
        handler = self._rdzv_handler
        if not isinstance(handler, DynamicRendezvousHandler):
            return True
        return handler._this_node in handler._state_holder.state.participants

    def leave(self, failure: Failure) -> None:
        """Tell the other nodes that this one is gone, so that they need not wait for its heartbeats to stay away.

        Args:
            failure: why it goes.
        """
        handler = self._rdzv_handler
        if not isinstance(handler, DynamicRendezvousHandler):
            return
        with contextlib.suppress(Exception):  # if the store is gone, missing heartbeats tell the others
            handler._stop_heartbeats()
            handler._op_executor.run(_RendezvousExitOp(), time.monotonic() + _SECONDS_TO_READ)

    def _judge(self, result: RunResult, died_first: set[int]) -> None:
        """Find out why the processes failed, and set accordingly how many restarts are left."""
        failures = [
            replace(failure_of(failed), rank=rank)
            for rank, failed in sorted(result.failures.items())
            if not died_first or failed.local_rank in died_first or not _was_stopped_by_agent(failed)
        ]
        failure = self.shared_verdict()
        if failure is None and failures:
            failure = root_cause(failures)
        elif failure is None:
            failure = Failure(Cause.HARDWARE, "hangs in the kernel, as it does when a GPU or a network card fails")
        self.failure = failure = self._memory.explain(failure)
        if failure.cause in _FREE_CAUSES and self._outlives_preempted_nodes:
            self._journal.emit(NodeLeft(failure.cause.name, describe(failure), self._remaining_restarts))
            self._next_start = Start.FREE
            self._remaining_restarts += 1  # torch takes it away again
        elif self._settle_by_others(failure):
            self._remaining_restarts += 1
        elif failure.cause.may_restart and self._remaining_restarts > 0:
            self._notify_others(failure)
            limit = self._worker_group.spec.max_restarts
            self._journal.emit(Restarted(failure.cause.name, describe(failure), self._remaining_restarts - 1, limit))
        else:
            self._remaining_restarts = 0

    def _settle_by_others(self, failure: Failure) -> bool:
        """Whether it is known that another node is to blame. The stock rendezvous does not tell."""
        return False

    def _notify_others(self, failure: Failure) -> None:
        """Tell the other nodes why they should start again. With the stock rendezvous they find out by themselves."""

    def _shutdown(self, death_sig: signal.Signals | None = None, timeout: int | None = None) -> None:
        """Stop the processes. A signal that comes while they save must not cut that short, but is not forgotten.

        Args:
            death_sig: the signal that makes the agent leave; None where it stops processes for another reason.
            timeout: ignored, part of torch's signature; the grace period counts instead.

        Raises:
            SignalException: a signal came meanwhile.
        """
        with signals_noted() as received:
            alive = {rank: process for rank, process in self._processes().items() if process.poll() is None}
            super()._shutdown(death_sig or signal.SIGTERM, self._grace_seconds)
        self.killed = [rank for rank, process in alive.items() if process.poll() == -signal.SIGKILL]
        if received and alive and death_sig is None:
            raise SignalException("a signal came while processes were stopped", signal.Signals(received[0]))

    def failure_behind(self, result: RunResult | None) -> Failure | None:
        """Why `run` has ended as it did; None after success.

        Args:
            result: what `run` returned; None: the others need this node no longer.
        """
        if result is not None and result.state == WorkerState.SUCCEEDED:
            return None
        return self.failure or Failure(Cause.LOST_PEER, "the other nodes went on without this one")

    def end_for_all(self, failure: Failure | None) -> None:
        """End the rendezvous: no node needs to wait for this run any more.

        Args:
            failure: why the run ended; None after success.
        """
        store = self._shared_store()
        with contextlib.suppress(Exception):  # the store may be gone, and torch has many ways to say so
            if failure is not None and store is not None:
                store.set(_VERDICT_KEY, exit_report.to_json(failure))
            self._rdzv_handler.shutdown()
            if failure is not None and (self._worker_group.group_world_size or 1) > 1:
                time.sleep(_SECONDS_TO_READ)

    def shared_verdict(self) -> Failure | None:
        """Why another node ended the run; None if none said so."""
        store = self._shared_store()
        with contextlib.suppress(Exception):  # the store may be gone, and torch has many ways to say so
            if store is not None and store.check([_VERDICT_KEY]):
                return exit_report.parse(json.loads(store.get(_VERDICT_KEY)))
        return None

    def _shared_store(self) -> Store | None:
        """The store in which the nodes met; None before they have."""
        return self._store


def failure_of(failed: ProcessFailure) -> Failure:
    """Why a process failed: by its own report if it left one, otherwise by its exit code."""
    return exit_report.parse(failed.error_file_data) or classify_exit_code(failed.exitcode)


def _was_stopped_by_agent(failed: ProcessFailure) -> bool:
    """Whether a process that did not end first may have ended by the signals that the agent then sent."""
    was_signalled = failed.exitcode in (-signal.SIGTERM, -signal.SIGKILL, EXIT_PREEMPTED)
    return was_signalled and exit_report.parse(failed.error_file_data) is None
