"""--metrics-port: where a command serves its metrics."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager

from cclm.launch.launched_process import is_launched
from cclm.launch_contract import METRICS_PORT

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

    source = "--metrics-port" if args.metrics_port is not None else METRICS_PORT
    text = args.metrics_port if args.metrics_port is not None else os.environ.get(METRICS_PORT, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text) <= _MAX_PORT):
        raise UserError(f"{source} {text}: a port is a number from 0 to {_MAX_PORT}; 0 takes any that is free")
    return int(text)


@contextmanager
def serving_metrics(args: argparse.Namespace) -> Iterator[None]:
    """Serve the metrics of this process, unless its launcher does that for all processes of this machine.

    Raises:
        UserError: the port is no port.
    """
    port = metrics_port_of(args)
    if port is None or is_launched() or os.environ.get("LOCAL_RANK", "0") != "0":
        yield
        return
    from cclm.metrics.endpoint import serving_process

    with serving_process(port):
        yield
