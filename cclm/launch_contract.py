"""What the launcher and the training processes agree on: exit codes and the names of environment variables.

Neither imports the other; both import this file.

Exit codes below 128 mean that trying again cannot help, so a scheduler should stop. With 128 and above the same command
may well succeed. Codes of signals are the shell's (128 + number); 200 and above are ours, as no signal has such a
number. `cclm.launch.causes` says what each one means.
"""

from __future__ import annotations

EXIT_SUCCESS = 0
EXIT_BUG = 1
EXIT_USER_ERROR = 2
EXIT_ATTEMPTS_EXHAUSTED = 3
EXIT_INTERRUPTED = 130
EXIT_COLLECTIVE_TIMEOUT = 134
EXIT_KILLED = 137
EXIT_CRASHED = 139
EXIT_PREEMPTED = 143
EXIT_LOST_PEER = 200
EXIT_STORAGE_OUTAGE = 201
EXIT_PEER_STOPPED = 202
EXIT_HARDWARE = 203

LAUNCHER_PID = "CCLM_LAUNCHER_PID"
"""Set by `cclm launch` for its processes: they report to it instead of printing."""
FULL_WORLD_SIZE = "CCLM_FULL_WORLD_SIZE"
"""Processes of a run with all its nodes: what per-process batch sizes of published configs are multiplied by."""
JOB_ID = "CCLM_JOB_ID"
"""What tells this job from another one in the same folder: --rdzv-id or the scheduler's id; unset where neither is."""
UNNAMED_JOB = "none"
"""What torchrun calls a job that has no name."""
UNNAMED_JOB_REFUSED = (
    "--resume never: without a name of the job, its restarts look like the next job; give --rdzv-id NAME, another one "
    "for each job"
)
COLLECTIVE_TIMEOUT = "CCLM_COLLECTIVE_TIMEOUT"
"""Seconds that a process waits for another one."""
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
