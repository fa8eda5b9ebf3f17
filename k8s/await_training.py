"""Waits until a job trains: `python -m k8s.await_training NAMESPACE JOB`.

helm does not wait for a job that it makes. The chart's test (`helm test`) runs this in a pod.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from cclm.errors import UserError
from k8s.client import Cluster, connect
from k8s.observe import find_job, observe
from k8s.replicas import State
from k8s.state import Description, describe

_INTERVAL = 2.0
"""Seconds between looks."""


def await_training(
    cluster: Cluster, namespace: str, name: str, seconds: float, say: Callable[[str], None]
) -> Description:
    """Look at a job until it has made a step of training, or has succeeded.

    Args:
        seconds: how long to wait.
        say: gets a line for each change of what the job does.

    Returns:
        What the job did in the end.

    Raises:
        UserError: the job is not there, has failed, was cancelled, or did not train in time.
    """
    until = time.monotonic() + seconds
    last = None
    while True:
        job = find_job(cluster, namespace, name)
        if job is None:
            raise UserError(f"there is no job {name} in namespace {namespace}")
        found = describe(observe(cluster, job))
        words = "; ".join(found.lines()) or found.state.value
        if words != last:
            say(f"{name}: {words}")
            last = words
        if found.state in (State.FAILED, State.CANCELLED):
            raise UserError(f"{name} {'has failed' if found.state is State.FAILED else 'was cancelled'}: {words}")
        if found.state is State.SUCCEEDED or (found.progress is not None and found.progress.step):
            return found
        if time.monotonic() >= until:
            raise UserError(f"{name} has not trained a step after {seconds:g} s: {words}")
        time.sleep(_INTERVAL)


def run(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m k8s.await_training",
        description="Wait until a job has made a step of training, or has succeeded; 2 if it fails, or is too late.",
    )
    parser.add_argument("namespace")
    parser.add_argument("job")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long to wait (default %(default)g)")
    options = parser.parse_args(arguments)
    try:
        found = await_training(connect(None), options.namespace, options.job, options.seconds, _print)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _print(f"{options.job} {'has succeeded' if found.state is State.SUCCEEDED else 'trains'}")
    return 0


def _print(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(run())
