"""Which checks `cclm launch` makes for a command and its config."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING

from cclm import storage
from cclm.cli.launch_parts import Part
from cclm.errors import UserError
from cclm.launch.attempts import newest_step
from cclm.preflight.checks import Check, Preflight
from cclm.preflight.efa import check_efa, is_efa_wanted
from cclm.preflight.gpus import check_enough, check_gpus, promised_gpus, torch_gpus
from cclm.preflight.result_folders import check_output
from cclm.preflight.shared_memory import check_shared_memory

if TYPE_CHECKING:
    from cclm.config.finetune import FinetuneConfig
    from cclm.config.pretrain import PretrainConfig
    from cclm.training.preflight import InputSplit


def preflight_of(parts: Callable[[], Sequence[Part]], *, is_all: bool) -> Preflight:
    """The checks before the parts of a command.

    Args:
        parts: gives them, once it is known how many processes the run has.
        is_all: whether nothing is started after the checks.
    """
    usable = cache(torch_gpus)  # looked at once, and not before the checks begin
    machine = [Check("gpus", lambda: check_gpus(promised_gpus(), usable()))]
    if is_efa_wanted():
        machine.append(Check("efa", check_efa))

    def of_run(processes: int, fewest: int) -> list[Check]:
        checks = [Check("enough_gpus", lambda: check_enough(processes, usable()))]
        made: list[str] = []
        for part in parts():
            if part.config is not None:
                checks += _of_config(part, part.config, processes, fewest, list(made))
                made += part.folders
        return checks

    return Preflight(machine, of_run, is_all)


def _of_config(
    part: Part, config: PretrainConfig | FinetuneConfig, processes: int, fewest: int, made: Sequence[str]
) -> list[Check]:
    """What a command with a config needs: results, data, and shared memory where it trains.

    Args:
        part: the command.
        config: its config.
        processes: of this machine.
        fewest: processes of the run at least.
        made: folders that earlier parts make; their checkpoints need not exist yet.
    """
    places = {"output_dir": config.output_dir, "output_hdfs": config.output_hdfs}
    checks = [Check(name, partial(check_output, place, name)) for name, place in places.items() if place is not None]
    checks.append(Check("inputs", lambda: _check_inputs(part, config, made)))
    if part.name in ("pretrain", "finetune"):
        checks.append(Check("shared_memory", lambda: _check_shared_memory(config, processes, fewest)))
    return checks


def _check_inputs(part: Part, config: PretrainConfig | FinetuneConfig, made: Sequence[str]) -> str:
    from cclm.training.preflight import check_inputs

    tests: InputSplit = "translated_test" if getattr(part.arguments, "gmt", False) else "test"
    only_tests = part.name == "evaluate" or getattr(part.arguments, "evaluate", False)
    check_inputs(config, [tests] if only_tests else ["training", "validation", tests])
    if only_tests or not newest_step(part.folders):
        _check_weights(part.arguments, config, made)
    return ""


def _check_weights(arguments: argparse.Namespace, config: PretrainConfig | FinetuneConfig, made: Sequence[str]) -> None:
    """Raise UserError if the weights that a run begins with do not exist. Once it has begun it does not read them."""
    from cclm.data.commands.check import missing_places

    checkpoint = getattr(arguments, "checkpoint", None)
    if checkpoint is not None and checkpoint not in made and not storage.exists(checkpoint):
        raise UserError(f"--checkpoint {checkpoint} does not exist; correct the path or fetch the file")
    if checkpoint is None and getattr(arguments, "resume", "auto") in ("auto", "never"):
        for sentence in missing_places(config):
            raise UserError(sentence)


def _check_shared_memory(config: PretrainConfig | FinetuneConfig, processes: int, fewest: int) -> str:
    from cclm.training.preflight import shared_memory_needed

    return check_shared_memory(processes * shared_memory_needed(config, fewest), processes)
