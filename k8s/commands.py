"""Commands of `torchx`: those that TorchX 0.7 lacks (`log --since`, `delete`, `resize`), and its own, mended.

TorchX's own answer a handle that is none with a traceback, wait for ever for the log of a job that does not exist, and
mix what a dry run would submit with text that is no YAML.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from torchx.cli.cmd_base import SubCommand
from torchx.cli.cmd_cancel import CmdCancel
from torchx.cli.cmd_describe import CmdDescribe
from torchx.cli.cmd_log import CmdLog, get_logs
from torchx.cli.cmd_run import CmdRun
from torchx.cli.cmd_status import CmdStatus
from torchx.runner import Runner, get_runner
from torchx.specs.api import MalformedAppHandleException, parse_app_handle

from cclm.errors import UserError
from k8s import config_files, user_errors
from k8s.names import BACKEND

_REQUEST = "=== SCHEDULER REQUEST ===\n"
"""What TorchX prints before what it would submit."""
_HANDLE = "kubernetes://torchx/NAMESPACE:NAME"
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


@contextlib.contextmanager
def _as_sentences(handle: str | None = None) -> Iterator[None]:
    """Within it, mistakes of users are sentences. Raises UserError for a handle that is none."""
    user_errors.show_as_sentences()
    try:
        if handle is not None:
            _check_backend(parse_app_handle(handle)[0])
        yield
    except MalformedAppHandleException:
        raise UserError(
            f"{handle} is no handle of a job; write it as torchx run printed it, such as {_HANDLE}"
        ) from None


def _check_backend(backend: str) -> None:
    from torchx.schedulers import get_scheduler_factories

    known = list(get_scheduler_factories())
    if backend not in known:
        raise UserError(f"there is no scheduler {backend}; there are {', '.join(known)}")


class Run(CmdRun):  # type: ignore[misc]  # torchx has no type information
    """TorchX's own `torchx run`, whose dry run for Kubernetes prints what `kubectl apply -f -` takes as it is."""

    def run(self, args: argparse.Namespace) -> None:
        """Run it. In a dry run, all but the job's YAML is printed as comments of YAML."""
        with _as_sentences():
            if args.scheduler == BACKEND:
                config_files.check_run_options()
            if not args.dryrun or args.scheduler != BACKEND or getattr(args, "json", False):
                super().run(args)
                return
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                super().run(args)
            text, title, request = printed.getvalue().rpartition(_REQUEST)
            for line in (text + title).splitlines():
                print(f"# {line}".rstrip())
            print(request, end="")


class Status(CmdStatus):  # type: ignore[misc]  # torchx has no type information
    """TorchX's own `torchx status`."""

    def run(self, args: argparse.Namespace) -> None:
        """Print the state of a job."""
        with _as_sentences(args.app_handle):
            super().run(args)


class Cancel(CmdCancel):  # type: ignore[misc]  # torchx has no type information
    """TorchX's own `torchx cancel`."""

    def add_arguments(self, subparser: argparse.ArgumentParser) -> None:
        """Add the arguments. Raises UserError for a .torchxconfig that is none.

        Every command's arguments are added at each start. TorchX takes their defaults from that file: `list` in the
        nightly, `run` in 0.7. Both come after this command.
        """
        user_errors.show_as_sentences()
        config_files.sections()
        super().add_arguments(subparser)

    def run(self, args: argparse.Namespace) -> None:
        """End a job, and keep its record."""
        with _as_sentences(args.app_handle):
            with get_runner() as runner:
                _check_job(runner, args.app_handle)
            super().run(args)


class Describe(CmdDescribe):  # type: ignore[misc]  # torchx has no type information
    """TorchX's own `torchx describe`."""

    def run(self, args: argparse.Namespace) -> None:
        """Print the application that a job was made of."""
        with _as_sentences(args.app_handle):
            super().run(args)


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
        with _as_sentences(), get_runner() as runner:
            since = moment(args.since) if args.since else None
            until = moment(args.until) if args.until else None
            _check_job(runner, args.identifier)
            timed = _TimedRunner(runner, since, until)
            get_logs(sys.stdout, args.identifier, args.regex, args.tail, runner=timed, streams=args.streams)


def _check_job(runner: Runner, identifier: str) -> None:
    """Raises UserError where there is no such job on Kubernetes.

    TorchX itself would wait for its log for ever, and say nothing when it is to be cancelled.
    """
    parts = re.match(r"(?P<backend>\w+)://[^/]*/(?P<app>[^/]+)", identifier)
    if parts is None:
        return  # TorchX says how it is written
    _check_backend(parts["backend"])
    if parts["backend"] == BACKEND and not runner._scheduler(BACKEND).exists(parts["app"]):
        raise UserError(f"there is no job {parts['app']}; see the jobs with: torchx list -s {BACKEND}")


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
    subparser.add_argument("app_handle", help=f"as torchx run printed it, such as {_HANDLE}")


def _scheduler_of(handle: str, action: str) -> tuple[Any, str]:
    with _as_sentences(handle), get_runner() as runner:
        backend, _, app_id = parse_app_handle(handle)
        scheduler = runner._scheduler(backend)
    if not hasattr(scheduler, action):
        raise UserError(f"the scheduler {backend} cannot {action} a job")
    return scheduler, app_id
