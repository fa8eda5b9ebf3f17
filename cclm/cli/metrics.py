"""--metrics-port: where a command serves its metrics."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from cclm.launch.launched_process import is_launched
from cclm.launch_contract import EXIT_SUCCESS, METRICS_FOLDER, METRICS_PORT

_MAX_PORT = 65535


def add_metrics_argument(parser: argparse.ArgumentParser) -> None:
    """Add --metrics-port."""
    parser.add_argument(
        "--metrics-port",
        metavar="PORT",
        help=f"serve metrics for Prometheus on this port, at /metrics, and a sign of life at /healthz ({METRICS_PORT}; "
        "default: off)",
    )


def metrics_port_of(args: argparse.Namespace) -> int | None:
    """The port that --metrics-port or its variable names; None: metrics are not served.

    Raises:
        UserError: it is no port.
    """
    from cclm.errors import UserError

    option: str | None = getattr(args, "metrics_port", None)  # `cclm run` has the variable alone
    source = "--metrics-port" if option is not None else METRICS_PORT
    text = option if option is not None else os.environ.get(METRICS_PORT, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text) <= _MAX_PORT):
        raise UserError(f"{source} {text}: a port is a number from 0 to {_MAX_PORT}; 0 takes any that is free")
    return int(text)


def while_serving_metrics(args: argparse.Namespace, work: Callable[[], int | None]) -> int:
    """Do the work of a command, and serve the metrics of this process meanwhile.

    Nothing is served here where the launcher of this process does it, or a command of which this one is a part. After
    success the last values stay for those who scrape regularly (docs/metrics.md, section "The end").

    Returns:
        The exit code that `work` returned; 0 for None.

    Raises:
        UserError: the port is no port.
    """
    port = metrics_port_of(args)
    is_served = is_launched() or METRICS_FOLDER in os.environ
    if port is None or is_served or os.environ.get("LOCAL_RANK", "0") != "0":
        return work() or 0
    from cclm.metrics.endpoint import serving_process

    with serving_process(port) as endpoint:
        code = work() or 0
        if endpoint is not None and code == EXIT_SUCCESS:
            endpoint.await_last_scrapes(lambda text: print(text, file=sys.stderr, flush=True))
        return code
