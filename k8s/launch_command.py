"""The `cclm launch` that a role runs, as far as it can be read before it is started. No torch."""

from __future__ import annotations

import argparse
import contextlib
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torchx.specs import Role

from cclm.errors import UserError

if TYPE_CHECKING:
    from cclm.cli.launch_parts import Part


@dataclass(frozen=True)
class LaunchCommand:
    """What the pods of a role start."""

    options: argparse.Namespace
    """Those of `cclm launch`."""
    command: argparse.Namespace
    """The command that runs on each process, with its options."""
    words: Sequence[str]
    """That command, as it was given."""

    @property
    def name(self) -> str:
        """Of that command."""
        return self.words[0]

    @property
    def processes_per_node(self) -> int | None:
        """Processes on each node; None where only the node can tell."""
        text = str(self.options.nproc_per_node or 1)
        return int(text) if text.isdecimal() else None

    def parts(self, processes: int) -> list[Part]:
        """The parts of the command with their configs; none where a config is not at hand.

        Args:
            processes: of the run.

        Raises:
            UserError: a config cannot be used.
        """
        from cclm.cli.launch_parts import parts_of

        if self.name == "run":
            is_at_hand = Path("configs").is_dir()
        else:
            is_at_hand = hasattr(self.command, "load_config") and Path(self.command.config).is_file()
        return parts_of(self.words, processes) if is_at_hand else []


def read(role: Role) -> LaunchCommand | None:
    """What a role starts; None if that is not `cclm launch`.

    Raises:
        UserError: its arguments cannot be read.
    """
    if not is_launch(role):
        return None
    words = _words_of(role)
    options = _parse(words[1:])
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise UserError("cclm launch needs a command to run, for example: cclm launch -- pretrain CONFIG")
    return LaunchCommand(options, _parse(command), command)


def is_launch(role: Role) -> bool:
    """Whether a role runs `cclm launch`. TorchX starts anything, such as its own `utils.echo`."""
    words = _words_of(role)
    return len(words) >= 2 and Path(words[0]).name == "cclm" and words[1] == "launch"


def _words_of(role: Role) -> list[str]:
    words = [role.entrypoint, *role.args]
    if len(words) == 3 and Path(words[0]).name in ("bash", "sh") and words[1] == "-c":
        try:
            words = shlex.split(words[2])
        except ValueError:
            return []  # a script rather than one command
    return words[1:] if words[:1] == ["exec"] else words


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """A command of cclm. argparse prints a mistake and ends the process; here it is an error like others."""
    from cclm.cli.main import parse

    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            return parse(words)
    except SystemExit:
        last = printed.getvalue().strip().splitlines()[-1:] or [f"cclm {' '.join(words)} cannot be read"]
        raise UserError(last[0]) from None
