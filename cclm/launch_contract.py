"""What the launcher and the training processes agree on: exit codes and the names of environment variables.

Neither imports the other; both import this file.

An exit code below 128 means that trying again cannot help, so a scheduler should stop. After 128 and above the same
command may well succeed. Codes of signals are the shell's, 128 + number. Codes from 200 on are ours, as no signal has
such a number. `cclm.launch.causes` says what each one means.
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
"""Process id of `cclm launch`. A process that has it leaves a report for the launcher instead of printing its error."""
FULL_WORLD_SIZE = "CCLM_FULL_WORLD_SIZE"
"""Processes of a run with all its nodes. Batch sizes of published configs are per process, and are multiplied by it."""
JOB_ID = "CCLM_JOB_ID"
"""Tells this job from other jobs in the same folder: --rdzv-id or the scheduler's id. Unset where there is neither."""
UNNAMED_JOB = "none"
"""What torchrun calls a job that has no name."""
UNNAMED_JOB_REFUSED = (
    "--resume never: without a name of the job, its restarts look like the next job; give --rdzv-id NAME, another one "
    "for each job"
)
METRICS_FOLDER = "CCLM_METRICS_FOLDER"
"""Folder in which processes keep their metrics for the endpoint of their pod.

It is not prometheus_client's PROMETHEUS_MULTIPROC_DIR, which may be set for another program."""
STORE_WAITS = "CCLM_STORE_WAITS"
"""Folder in which processes that wait for a store have their marks (`cclm.metrics.waiting`), where METRICS_FOLDER is
not set."""
METRICS_PORT = "CCLM_METRICS_PORT"
"""Port of the endpoint, where --metrics-port is not given."""
METRICS_NOTICE = "CCLM_METRICS_NOTICE"
"""A sentence about the endpoint that the console has already, for the run's log."""
METRICS_WARNING = "CCLM_METRICS_WARNING"
"""A warning of the same kind."""
MAX_ATTEMPTS = "CCLM_MAX_ATTEMPTS"
"""Starts in a row without a newer checkpoint, where --max-attempts is not given."""
COLLECTIVE_TIMEOUT = "CCLM_COLLECTIVE_TIMEOUT"
"""Seconds that a process waits for another one before it gives up."""
MEASURES_NETWORK = "CCLM_MEASURES_NETWORK"
"""Set where the processes of several nodes are to measure the network between them before they train."""
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Path of the report that a failing process leaves (`cclm.launch.exit_report`); torchrun sets it."""
