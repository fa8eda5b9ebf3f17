"""What `cclm launch` is to run, as far as it can be known before any process starts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cclm.config.finetune import FinetuneConfig
    from cclm.config.pretrain import PretrainConfig


@dataclass(frozen=True)
class Part:
    """A command that each process runs: one of several, if `cclm run` does its task in several."""

    name: str
    """Of the command."""
    arguments: argparse.Namespace
    config: PretrainConfig | FinetuneConfig | None
    """None for a command without one."""

    @property
    def folders(self) -> list[str]:
        """Where it saves. A folder in a store, which outlives the machine, comes last."""
        names = ("output_dir", "output_hdfs")
        return [str(value) for name in names if (value := getattr(self.config, name, None))]


def parts_of(command: Sequence[str], processes: int | None = None) -> list[Part]:
    """The parts of a command of cclm, in order.

    Args:
        processes: of the run, of which published configs give the batch of one. None: as the environment says.

    Raises:
        UserError: it cannot be used.
    """
    from cclm.cli.main import parse
    from cclm.cli.run import commands_to_run

    parsed = parse(command)
    if command[0] == "run":
        with commands_to_run(parsed) as commands:
            return [part for each in commands for part in parts_of(each, processes)]
    parsed.processes = processes
    load_config = getattr(parsed, "load_config", None)
    return [Part(command[0], parsed, None if load_config is None else load_config(parsed))]
