"""Why a run ended, as exit codes: the one table that schedulers and their users rely on.

`cclm.launch_contract` says what the ranges of codes mean.
"""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass

from cclm.errors import NodeError, UserError
from cclm.launch_contract import (
    EXIT_ATTEMPTS_EXHAUSTED,
    EXIT_BUG,
    EXIT_COLLECTIVE_TIMEOUT,
    EXIT_CRASHED,
    EXIT_HARDWARE,
    EXIT_INTERRUPTED,
    EXIT_KILLED,
    EXIT_LOST_PEER,
    EXIT_PEER_STOPPED,
    EXIT_PREEMPTED,
    EXIT_STORAGE_OUTAGE,
    EXIT_SUCCESS,
    EXIT_USER_ERROR,
)


class Cause(enum.Enum):
    """Why a process or a run ended: its exit code, and what that means."""

    BUG = EXIT_BUG, "a Python exception that nobody foresaw; its traceback is printed"
    USER_ERROR = EXIT_USER_ERROR, "config, data, weights or command line; one sentence says which and what to do"
    ATTEMPTS_EXHAUSTED = EXIT_ATTEMPTS_EXHAUSTED, "started --max-attempts times in a row without a newer checkpoint"
    INTERRUPTED = EXIT_INTERRUPTED, "Ctrl-C"
    COLLECTIVE_TIMEOUT = (
        EXIT_COLLECTIVE_TIMEOUT,
        "a process waited --collective-timeout for another one (NCCL, gloo), or aborted (SIGABRT)",
    )
    KILLED = EXIT_KILLED, "a process got SIGKILL, mostly for memory"
    CRASHED = EXIT_CRASHED, "a process crashed in native code (SIGSEGV, SIGBUS, SIGILL, SIGFPE)"
    PREEMPTED = EXIT_PREEMPTED, "SIGTERM: training saved and left"
    LOST_PEER = EXIT_LOST_PEER, "another process or node is gone or cannot be reached"
    STORAGE_OUTAGE = EXIT_STORAGE_OUTAGE, "a store did not answer for minutes"
    PEER_STOPPED = EXIT_PEER_STOPPED, "another process was preempted; this one saved and left with it"
    HARDWARE = (
        EXIT_HARDWARE,
        "this machine: a GPU failed, a check before the start did not pass, or a process hangs in the kernel",
    )

    def __init__(self, code: int, meaning: str) -> None:
        self.code, self.meaning = code, meaning

    @property
    def may_retry(self) -> bool:
        """Whether the same command may succeed when it is given again."""
        return self.code >= 128

    @property
    def may_restart(self) -> bool:
        """Whether the launcher itself may start the processes again: not after someone asked them to stop."""
        return self.may_retry and self not in (Cause.PREEMPTED, Cause.INTERRUPTED)


def exit_code_table() -> str:
    """The exit codes as text, for `--help`."""
    lines = [f"  {EXIT_SUCCESS:>3}  success"]
    lines += [f"  {cause.code:>3}  {cause.meaning}" for cause in sorted(Cause, key=lambda cause: cause.code)]
    return "\n".join(lines)


@dataclass(frozen=True)
class Failure:
    """Why one process, or the run, failed."""

    cause: Cause
    message: str
    """What happened: a whole sentence, or one whose subject is the rank (see `describe`)."""
    traceback: str = ""
    """Of a BUG, as Python prints it; empty for other causes."""
    rank: int | None = None
    """Global rank of the process; None where no single one is meant."""


_FROM_CONSEQUENCE_TO_CAUSE = (
    Cause.PEER_STOPPED, Cause.LOST_PEER, Cause.PREEMPTED, Cause.COLLECTIVE_TIMEOUT, Cause.BUG, Cause.INTERRUPTED,
    Cause.STORAGE_OUTAGE, Cause.CRASHED, Cause.HARDWARE, Cause.KILLED, Cause.USER_ERROR, Cause.ATTEMPTS_EXHAUSTED,
)  # fmt: skip
"""From consequence to cause: of different failures in a group, the one listed last caused the others."""


def root_cause(failures: list[Failure]) -> Failure:
    """The failure that made the others happen. `failures` must not be empty."""
    return max(failures, key=lambda failure: _FROM_CONSEQUENCE_TO_CAUSE.index(failure.cause))


def classify_exit_code(code: int) -> Failure:
    """Why a process that left no report has ended.

    Args:
        code: as `subprocess` has it: negative for signals.
    """
    if code < 0 or code > 128:
        number = -code if code < 0 else code - 128
        by_signal: dict[int, tuple[Cause, str]] = {
            signal.SIGKILL: (Cause.KILLED, "was killed by SIGKILL, mostly a sign of too little memory"),
            signal.SIGTERM: (Cause.PREEMPTED, "was stopped by SIGTERM"),
            signal.SIGINT: (Cause.INTERRUPTED, "was interrupted"),
            signal.SIGABRT: (
                Cause.COLLECTIVE_TIMEOUT,
                "aborted (SIGABRT): its last lines say why. NCCL ends so when a collective hangs, glibc when memory is "
                "corrupted, and C++ after an exception that nothing caught",
            ),
        }
        if number in by_signal:
            return Failure(*by_signal[number])
        for cause in (Cause.LOST_PEER, Cause.STORAGE_OUTAGE, Cause.HARDWARE):
            if code == cause.code:
                return Failure(cause, f"ended with exit code {code} ({cause.meaning})")
        if code == Cause.PEER_STOPPED.code:
            return Failure(Cause.PEER_STOPPED, "left as another process was stopped")
        if number in set(signal.Signals):
            return Failure(Cause.CRASHED, f"crashed ({signal.Signals(number).name})")
    if code == EXIT_USER_ERROR:
        return Failure(Cause.USER_ERROR, "refused what it was given (see above)")
    if code == EXIT_ATTEMPTS_EXHAUSTED:
        return Failure(Cause.ATTEMPTS_EXHAUSTED, Cause.ATTEMPTS_EXHAUSTED.meaning)
    return Failure(Cause.BUG, f"ended with exit code {code} (see above)")


# How libraries word the failures that must be told apart. torch has no exception types for most of them.
_GLOO_TIMEOUT = "application timeout caused pair closure"  # the only phrase of gloo that does not name gloo
_TIMEOUTS = (
    "timed out waiting", "timeout waiting", "wait timeout", "collective operation timeout", "timed out after",
    _GLOO_TIMEOUT,
)  # fmt: skip
_LOST = (
    "connection closed by peer", "connection reset by peer", "broken pipe", "connection refused", "socket closed",
    "failed to recv", "unable to connect", "socket timeout", "address already in use", "eaddrinuse",
    "connection was likely closed", "remote process exited", "no route to host",
)  # fmt: skip
_BROKEN_GPU = ("uncorrectable ecc", "gpu is lost", "fallen off the bus", "hardware stack error", "nvlink error")


def classify_exception(error: BaseException) -> Failure:
    """Why a process that this exception ended has failed."""
    # By name, as this module must import neither torch nor the storage layer.
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    # The first line says what happened. gloo appends a line of advice, and NCCL its version.
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    lower = text.lower()
    if "StoreUnavailable" in names:
        return Failure(Cause.STORAGE_OUTAGE, text)
    if isinstance(error, UserError):
        return Failure(Cause.USER_ERROR, text)
    if isinstance(error, NodeError):
        return Failure(Cause.HARDWARE, text)
    if "OutOfMemoryError" in names:
        advice = (
            "lower the batch sizes (batch_size of each source of pre-training, training.batch_size of fine-tuning), "
            "or share them among more GPUs"
        )
        return Failure(Cause.USER_ERROR, f"the GPU's memory is too small for this run ({first}); {advice}")
    if any(phrase in lower for phrase in _BROKEN_GPU):
        return Failure(Cause.HARDWARE, first)
    if "dataloader worker" in lower:
        if "killed by signal: killed" in lower:
            return Failure(
                Cause.KILLED, f"lost a data loader process to SIGKILL, mostly a sign of too little memory ({first})"
            )
        if "bus error" in lower:
            return Failure(
                Cause.USER_ERROR, f"shared memory is too small for the data loader: mount a larger /dev/shm ({first})"
            )
    is_collective = "DistError" in names or any(
        phrase in lower for phrase in ("gloo", "nccl", "tcpstore", _GLOO_TIMEOUT)
    )
    if is_collective and any(phrase in lower for phrase in _TIMEOUTS):
        return Failure(Cause.COLLECTIVE_TIMEOUT, f"waited too long for another process ({first})")
    if "DistError" in names or (is_collective and any(phrase in lower for phrase in _LOST)):
        return Failure(Cause.LOST_PEER, f"lost another process ({first})")
    return Failure(Cause.BUG, f"{type(error).__name__}: {first}")


def describe(failure: Failure) -> str:
    """What happened, in one line. It names the rank, unless the failure would be the same on any rank."""
    if failure.rank is None or failure.cause in (Cause.USER_ERROR, Cause.ATTEMPTS_EXHAUSTED):
        return failure.message
    is_whole_sentence = failure.cause in (Cause.BUG, Cause.STORAGE_OUTAGE)
    return f"rank {failure.rank}{':' if is_whole_sentence else ''} {failure.message}"
