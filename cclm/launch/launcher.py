"""One node's part of a run: the agent is built, runs, and how it ends becomes one line and an exit code."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from cclm.errors import UserError
from cclm.launch.attempts import Attempts, AttemptsExhausted
from cclm.launch.causes import Cause, Failure, describe
from cclm.launch_contract import (
    COLLECTIVE_TIMEOUT,
    EXIT_SUCCESS,
    FULL_WORLD_SIZE,
    JOB_ID,
    LAUNCHER_PID,
    UNNAMED_JOB,
    UNNAMED_JOB_REFUSED,
)

_NO_JOB = "local"
"""By which attempts are counted that no scheduler made."""


@dataclass(frozen=True)
class LaunchOptions:
    """What `cclm launch` was asked for."""

    command: list[str]
    """Arguments of `cclm` for each process."""
    torchrun_options: list[str]
    """Options for torchrun's own parser, which adds those of PET_* variables."""
    folders: list[str]
    """Where the run saves; empty if it does not."""
    run_id: str | None
    """Of the job, for counting attempts and for `--resume never`; None if there is none."""
    max_attempts: int
    shutdown_timeout: int
    collective_timeout: int
    begins_anew: bool = False
    """Whether the first start of the job sets aside what is there (`--resume never`)."""
    check_processes: Callable[[int], None] | None = None
    """Raises UserError if the command cannot run on so many processes."""


class Stopped(BaseException):
    """A signal to the launcher, before torch's agent handles signals."""


def launch(options: LaunchOptions) -> int:
    """Run to the end; returns the exit code.

    Raises:
        UserError: options that cannot be used, before anything is started.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _raise_stopped)
    logs = tempfile.mkdtemp(prefix="cclm-launch-")
    try:
        return _launch(options, logs)
    except Stopped as stop:
        failure = Failure(Cause.PREEMPTED, "stopped by SIGTERM before training began")
        if stop.args[0] == signal.SIGINT:
            failure = Failure(Cause.INTERRUPTED, "interrupted before training began")
        return _end(failure)
    finally:
        shutil.rmtree(logs, ignore_errors=True)


def _launch(options: LaunchOptions, logs: str) -> int:
    # A store that outlives a round is remembered by nodes whose rank changes, and they miss each other.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # native stacks of connections that end, which we tell of
    os.environ |= {LAUNCHER_PID: str(os.getpid()), COLLECTIVE_TIMEOUT: str(options.collective_timeout)}
    os.environ.pop(JOB_ID, None)
    if options.run_id is not None:
        os.environ[JOB_ID] = options.run_id
    from cclm.launch import torchrun  # imports torch: seconds

    torchrun.silence_torch()
    config, command = torchrun.parse_options(options.torchrun_options, options.command, logs)
    check_sizes(options, config.min_nodes, config.max_nodes, config.nproc_per_node)
    if options.begins_anew and (options.run_id or config.run_id) == UNNAMED_JOB:
        raise UserError(UNNAMED_JOB_REFUSED)
    os.environ[FULL_WORLD_SIZE] = str(config.max_nodes * config.nproc_per_node)
    attempts = None
    if options.folders:
        attempts = Attempts(options.folders, options.command[0], options.run_id or _NO_JOB, options.max_attempts)
    agent = None
    try:
        agent = torchrun.build_agent(config, command, attempts, options.shutdown_timeout, say)
        result = agent.run()
        failure = None if result is not None and not result.is_failed() else agent.failure
        if failure is None and result is None:
            failure = Failure(Cause.LOST_PEER, "the other nodes went on without this one")
    except torchrun.SignalException as stop:
        failure = _stopped(stop.sigval, agent.killed if agent else [], options.shutdown_timeout)
    except AttemptsExhausted as error:
        failure = Failure(Cause.ATTEMPTS_EXHAUSTED, str(error))
    except UserError as error:
        failure = Failure(Cause.USER_ERROR, str(error))
    except Exception as error:
        failure = (agent and agent.shared_verdict()) or torchrun.classify_agent_error(error)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the run is over, and only seconds are left
    if agent is not None:
        if attempts and agent.leads:
            _settle(attempts, failure)
        if failure is None or not failure.cause.may_retry:
            agent.end_for_all(failure)
        else:
            agent.leave()
    return EXIT_SUCCESS if failure is None else _end(failure)


def check_sizes(options: LaunchOptions, least: int, most: int, processes: int) -> None:
    """Refuse a range of nodes in which there is a number that the command cannot run on: it would end the run later."""
    for nodes in range(least, most + 1):
        try:
            if options.check_processes:
                options.check_processes(nodes * processes)
        except UserError as error:
            if least == most:
                raise
            raise UserError(f"{error} (with --nnodes {least}:{most} the run may come to {nodes} nodes)") from None


_NO_ATTEMPT = (Cause.PREEMPTED, Cause.INTERRUPTED, Cause.PEER_STOPPED, Cause.USER_ERROR)
"""Ends that say nothing about whether trying again helps. A mistake is mended before the next start."""


def _settle(attempts: Attempts, failure: Failure | None) -> None:
    """Close this attempt's account."""
    try:
        if failure is None:
            attempts.succeed()
        elif failure.cause in _NO_ATTEMPT:
            attempts.take_back()
    except (OSError, UserError) as error:  # how the run ended matters more
        say(f"the count of attempts could not be written: {error}")


def _stopped(number: int, killed: list[int], grace: int) -> Failure:
    cause = Cause.INTERRUPTED if number == signal.SIGINT else Cause.PREEMPTED
    how = f"stopped by {signal.Signals(number).name}"
    if killed:
        ranks = ", ".join(map(str, killed))
        return Failure(cause, f"{how}; local ranks {ranks} had to be killed after {grace} s")
    return Failure(cause, f"{how}; all processes have left")


def _end(failure: Failure) -> int:
    """Say what happened and what that means for the scheduler; returns the exit code."""
    if failure.traceback:
        print(failure.traceback, file=sys.stderr, end="")
    code = failure.cause.code
    if failure.cause in (Cause.USER_ERROR, Cause.ATTEMPTS_EXHAUSTED):
        print(f"cclm: error: {failure.message} (exit code {code}: not to be retried)", file=sys.stderr)
    else:
        decision = "not to be retried"
        if failure.cause.may_retry:
            decision = "the same command goes on from the newest checkpoint"
        say(f"{describe(failure)}; exit code {code}: {decision}")
    return code


def say(line: str) -> None:
    print(f"cclm launch: {line}", file=sys.stderr, flush=True)


def _raise_stopped(number: int, frame: object) -> None:
    raise Stopped(number)
