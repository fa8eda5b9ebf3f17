"""One node's part of a run: the agent is built and runs, and how it ends becomes an event and an exit code."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

from cclm.errors import UserError
from cclm.events import Ended, Journal, Notice
from cclm.launch import preflight, store_calls
from cclm.launch.attempts import Attempts, AttemptsExhausted
from cclm.launch.causes import Cause, Failure, describe
from cclm.launch.launch_file import LaunchFile
from cclm.launch.membership import RunIsOver
from cclm.launch.metrics_sink import last_progress
from cclm.launch_contract import (
    COLLECTIVE_TIMEOUT,
    EXIT_SUCCESS,
    FULL_WORLD_SIZE,
    JOB_ID,
    LAUNCHER_PID,
    STORE_WAITS,
    UNNAMED_JOB,
    UNNAMED_JOB_REFUSED,
)
from cclm.preflight.checks import Preflight

if TYPE_CHECKING:
    from cclm.launch.agent import Agent
    from cclm.launch.torchrun import TorchrunSettings
    from cclm.metrics.endpoint import Endpoint

_LOCAL_JOB = "local"
"""The job's name in the count of attempts where no scheduler gave one."""
_UNCOUNTED_CAUSES = (Cause.PREEMPTED, Cause.INTERRUPTED, Cause.PEER_STOPPED, Cause.USER_ERROR)
"""Ends that say nothing about whether trying again helps. A user's mistake is mended before the next start."""


@dataclass(frozen=True)
class LaunchOptions:
    """What `cclm launch` was asked for."""

    command: list[str]
    """Arguments of `cclm` for each process."""
    torchrun_options: list[str]
    """Options for torchrun's own parser, which adds those of PET_* variables."""
    folders: list[str]
    """Where the run saves, as paths or URLs; empty if it saves nothing."""
    run_id: str | None
    """Name of the job, for counting attempts and for `--resume never`; None if it has none."""
    max_attempts: int
    """Starts in a row without a newer checkpoint."""
    shutdown_timeout: int
    """Seconds that processes get to save and leave."""
    collective_timeout: int
    """Seconds that a process waits for another one."""
    later_folders: Sequence[list[str]] = ()
    """Where a command that trains several times in a row saves the later times. Steps count from 0 in each of them."""
    starts_anew: bool = False
    """Whether the first start of the job sets aside what is there (`--resume never`)."""
    check_processes: Callable[[int], None] | None = None
    """Raises UserError if the command cannot run on that number of processes."""
    is_folder_taken: Callable[[], bool] = lambda: False
    """Whether a run of another launcher works in the folders now."""
    preflight: Preflight | None = None
    """Checks before the processes start; None: none (`--no-preflight`)."""


class StoppedEarly(BaseException):
    """A signal came before torch's agent handles signals."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


def launch(options: LaunchOptions, journal: Journal, endpoint: Endpoint | None = None) -> int:
    """Run to the end; returns the exit code.

    Args:
        journal: gets an event for whatever happens, `Ended` as the last one.
        endpoint: where the metrics of this node are served; None: nowhere.

    Raises:
        UserError: options that cannot be used, before anything is started.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _raise_stopped_early)
    log_dir = tempfile.mkdtemp(prefix="cclm-launch-")
    file = None
    if options.folders:
        file = LaunchFile(
            options.folders,
            options.command[0],
            options.run_id,
            starts_anew=options.starts_anew,
            journal=journal,
            is_folder_taken=options.is_folder_taken,
        )
        journal.sinks.append(file)
    try:
        failure = _launch(options, journal, log_dir)
    except StoppedEarly as stop:
        failure = Failure(Cause.PREEMPTED, "stopped by SIGTERM before training began")
        if stop.signal_number == signal.SIGINT:
            failure = Failure(Cause.INTERRUPTED, "interrupted before training began")
    finally:
        shutil.rmtree(log_dir, ignore_errors=True)
    end = replace(_ended(failure), progress=last_progress(endpoint), restarts={} if file is None else file.counted)
    journal.emit(end)
    if endpoint is not None and not end.may_retry:  # the next start is not held up
        endpoint.await_last_scrapes(lambda text: journal.emit(Notice(text)))
    return end.exit_code


def _raise_stopped_early(number: int, frame: object) -> NoReturn:
    raise StoppedEarly(number)


def _launch(options: LaunchOptions, journal: Journal, log_dir: str) -> Failure | None:
    """Run to the end; returns why it failed, None after success. Raises UserError."""
    _set_environment(options, log_dir)
    from cclm.launch import torchrun  # imports torch: seconds

    torchrun.silence_torch()
    if (failure := preflight.check_machine(options.preflight, journal)) is not None:
        return failure
    settings = torchrun.parse_options(options.torchrun_options, options.command, log_dir)
    config = settings.config
    os.environ[FULL_WORLD_SIZE] = str(config.max_nodes * config.nproc_per_node)
    check_world_sizes(options.check_processes, config.min_nodes, config.max_nodes, config.nproc_per_node)
    if options.starts_anew and (options.run_id or config.run_id) == UNNAMED_JOB:
        raise UserError(UNNAMED_JOB_REFUSED)
    if options.preflight is not None:
        failure = preflight.check_run(options.preflight, config.nproc_per_node, config.min_nodes, journal)
        if failure is not None or options.preflight.is_all:
            return failure
        preflight.measure_network(log_dir)
    return _run_agent(options, settings, journal)


def _set_environment(options: LaunchOptions, log_dir: str) -> None:
    """Set the variables that torch reads here, and those that the processes inherit."""
    # With a store that outlives a round, nodes whose rank has changed would look for each other in the wrong place.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    # No native stacks for connections that end: the launcher says what happened.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ |= {
        LAUNCHER_PID: str(os.getpid()),
        COLLECTIVE_TIMEOUT: str(options.collective_timeout),
        STORE_WAITS: log_dir,
    }
    os.environ.pop(JOB_ID, None)
    if options.run_id is not None:
        os.environ[JOB_ID] = options.run_id


def check_world_sizes(
    check_processes: Callable[[int], None] | None, min_nodes: int, max_nodes: int, processes_per_node: int
) -> None:
    """Refuse a range of nodes that contains a number on which the command cannot run.

    Otherwise the run would end later, when it comes to that number.

    Args:
        check_processes: raises UserError for a number of processes that cannot be used.

    Raises:
        UserError: a number in the range cannot be used.
    """
    if check_processes is None:
        return
    for nodes in range(min_nodes, max_nodes + 1):
        try:
            check_processes(nodes * processes_per_node)
        except UserError as error:
            if min_nodes == max_nodes:
                raise
            raise UserError(
                f"{error} (with --nnodes {min_nodes}:{max_nodes} the run may come to {nodes} nodes)"
            ) from None


def _run_agent(options: LaunchOptions, settings: TorchrunSettings, journal: Journal) -> Failure | None:
    """Build the agent, run it, and leave the other nodes in good order; returns why it failed, None after success."""
    from cclm.launch import torchrun

    attempts = None
    if options.folders:
        attempts = Attempts(
            options.folders,
            options.command[0],
            options.run_id or _LOCAL_JOB,
            options.max_attempts,
            later_folders=options.later_folders,
            is_folder_taken=options.is_folder_taken,
        )
    agent: Agent | None = None
    failure: Failure | None = None
    try:
        agent = torchrun.build_agent(settings, attempts, options.shutdown_timeout, journal)
        result = agent.run()
        failure = agent.failure_behind(result)
    except torchrun.SignalException as stop:
        killed = [] if agent is None else agent.killed
        failure = _stopped_by_signal(stop.sigval, killed, options.shutdown_timeout)
    except RunIsOver:
        failure = None
    except AttemptsExhausted as error:
        failure = Failure(Cause.ATTEMPTS_EXHAUSTED, str(error))
    except UserError as error:
        failure = Failure(Cause.USER_ERROR, str(error))
    except Exception as error:
        failure = None if agent is None else agent.shared_verdict()
        if failure is None:
            failure = torchrun.classify_agent_error(error)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the run is over, and what is left to do takes seconds
    if agent is not None:
        if attempts is not None and agent.is_leader:
            _settle_attempts(attempts, failure, journal)
        if failure is None or not failure.cause.may_retry:
            agent.end_for_all(failure)
        else:
            agent.leave(failure)
    return failure


def _settle_attempts(attempts: Attempts, failure: Failure | None, journal: Journal) -> None:
    """Reset the count after success, and take this start back where its end says nothing about the next one.

    A start that could not be counted when it began, since an earlier run was still in the folder, is counted now.
    After a signal it takes seconds at most, whether the store answers or not.
    """
    is_counted = failure is not None and failure.cause not in _UNCOUNTED_CAUSES
    if is_counted and not attempts.is_uncounted:
        return

    def settle() -> None:
        try:
            if failure is None:
                attempts.reset()
                left = 0
            else:
                left = attempts.begin() if is_counted else attempts.take_back()
            journal.emit(attempts.counted(left))
        except AttemptsExhausted:  # the next start is told so, too
            pass
        except (OSError, UserError) as error:  # how the run ended matters more
            journal.emit(Notice(f"the count of attempts could not be written: {error}"))

    is_stopped = failure is not None and failure.cause in (Cause.PREEMPTED, Cause.INTERRUPTED)
    if not store_calls.finish(settle, is_stopped=is_stopped):
        journal.emit(
            Notice(f"the count of attempts could not be written before this launch had to end: {attempts.url}")
        )


def _stopped_by_signal(number: int, killed: list[int], grace_seconds: int) -> Failure:
    cause = Cause.INTERRUPTED if number == signal.SIGINT else Cause.PREEMPTED
    how = f"stopped by {signal.Signals(number).name}"
    if killed:
        ranks = ", ".join(map(str, killed))
        return Failure(cause, f"{how}; local ranks {ranks} had to be killed after {grace_seconds} s")
    return Failure(cause, f"{how}; all processes have left")


def _ended(failure: Failure | None) -> Ended:
    if failure is None:
        return Ended(EXIT_SUCCESS, cause=None, reason="", may_retry=False)
    cause = failure.cause
    return Ended(cause.code, cause.name, describe(failure), cause.may_retry, failure.traceback)
