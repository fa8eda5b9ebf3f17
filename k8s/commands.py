"""Commands of `torchx` that TorchX 0.7 lacks: `torchx log --since`, `torchx delete` and `torchx resize`."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from torchx.cli.cmd_base import SubCommand
from torchx.cli.cmd_log import CmdLog, get_logs
from torchx.runner import Runner, get_runner
from torchx.specs.api import parse_app_handle

from cclm.errors import UserError
from k8s import user_errors

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment(text: str) -> datetime:
    """A time: `10m` means ten minutes ago (s, m, h, d); else a date and time, without a zone a local one.

    Raises:
        UserError: it is neither.
    """
    span = re.fullmatch(r"(\d+)([smhd])", text)
    if span is not None:
        return datetime.now(UTC) - timedelta(**{_UNITS[span[2]]: int(span[1])})
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise UserError(f"not a time: {text}; write 10m, 2h, 1d, or 2026-01-31T12:00") from None


class _TimedRunner:
    """A runner whose logs are of a certain time; the rest is TorchX's own."""

    def __init__(self, runner: Runner, since: datetime | None, until: datetime | None) -> None:
        self._runner, self._times = runner, {"since": since, "until": until}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def log_lines(self, *arguments: Any, **settings: Any) -> Any:
        return self._runner.log_lines(*arguments, **self._times, **settings)


class Log(CmdLog):  # type: ignore[misc]  # torchx has no type information
    """TorchX's own `torchx log` with `--since` and `--until`."""

    def add_arguments(self, subparser: argparse.ArgumentParser) -> None:
        """Add the options."""
        super().add_arguments(subparser)
        times = "10m, 2h, 1d, or 2026-01-31T12:00"
        subparser.add_argument("--since", metavar="TIME", help=f"only lines from then on: {times}")
        subparser.add_argument("--until", metavar="TIME", help="only lines until then")

    def run(self, args: argparse.Namespace) -> None:
        """Print lines."""
        user_errors.show_as_sentences()
        since = moment(args.since) if args.since else None
        until = moment(args.until) if args.until else None
        with get_runner() as runner:
            timed = _TimedRunner(runner, since, until)
            get_logs(sys.stdout, args.identifier, args.regex, args.tail, runner=timed, streams=args.streams)


class Delete(SubCommand):  # type: ignore[misc]  # torchx has no type information
    """`torchx delete HANDLE`: remove a job and its record."""

    def add_arguments(self, subparser: argparse.ArgumentParser) -> None:
        """Add the arguments."""
        _add_handle(subparser)

    def run(self, args: argparse.Namespace) -> None:
        """Delete it."""
        scheduler, app_id = _scheduler_of(args.app_handle, "delete")
        if scheduler.describe(app_id) is None:
            raise UserError(f"there is no job {app_id}")
        scheduler.delete(app_id)


class Resize(SubCommand):  # type: ignore[misc]  # torchx has no type information
    """`torchx resize HANDLE NODES`: give a running elastic job another number of nodes."""

    def add_arguments(self, subparser: argparse.ArgumentParser) -> None:
        """Add the arguments."""
        _add_handle(subparser)
        subparser.add_argument("nodes", type=int, help="how many nodes, within -j MIN:MAXxPROCESSES of the run")

    def run(self, args: argparse.Namespace) -> None:
        """Resize it."""
        scheduler, app_id = _scheduler_of(args.app_handle, "resize")
        scheduler.resize(app_id, args.nodes)


def _add_handle(subparser: argparse.ArgumentParser) -> None:
    subparser.add_argument("app_handle", help="as torchx run printed it, such as kubernetes://torchx/NAMESPACE:NAME")


def _scheduler_of(handle: str, action: str) -> tuple[Any, str]:
    user_errors.show_as_sentences()
    backend, _, app_id = parse_app_handle(handle)
    with get_runner() as runner:
        scheduler = runner._scheduler(backend)
    if not hasattr(scheduler, action):
        raise UserError(f"the scheduler {backend} cannot {action} a job")
    return scheduler, app_id
