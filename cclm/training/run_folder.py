"""Where a fine-tuning run keeps its checkpoints: the newest ones, and the best one in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cclm import distributed
from cclm.checkpoints.save import (
    STATE,
    Checkpoint,
    checkpoint_folders,
    find_checkpoint,
    load_model,
    load_optimizer,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from cclm.errors import UserError
from cclm.training.initial_task import BEST
from cclm.training.preflight import check_writable
from cclm.training.resume import Resume, set_aside

KEPT = 2


class RunFolder:
    """The checkpoints of one run; every process calls everything, the first one writes.

    Raises:
        UserError: the folder takes no files.
    """

    def __init__(self, output_dir: str) -> None:
        self.folder = Path(output_dir)
        if distributed.rank() == 0:
            check_writable(self.folder, "output_dir")
        distributed.barrier()

    def find_start(self, resume: Resume) -> Checkpoint | None:
        """The newest whole checkpoint, the same on every process, or None to start anew.

        Raises:
            UserError: all there are are torn.
        """
        if resume == "never":
            if distributed.rank() == 0:
                set_aside(self.folder)
            distributed.barrier()
            return None
        found = newest_checkpoint(self.folder, print) if distributed.rank() == 0 else None
        path = distributed.gather_objects(found and found.path)[0]
        if path is None:
            if checkpoint_folders(self.folder):
                raise UserError(f"no checkpoint in {self.folder} is whole; start anew with --resume never")
            return None
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        return Checkpoint(path, state["step"], state)

    def restore(self, start: Checkpoint, task: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        load_model(start, task)
        load_optimizer(start, optimizer)

    def save(self, step: int, task: nn.Module, optimizer: Any, state: Mapping[str, Any]) -> None:
        self._write(self.folder, step, task, optimizer, state, KEPT)

    def save_best(self, step: int, task: nn.Module, state: Mapping[str, Any]) -> None:
        """Keep the model, without optimizer, in place of the best one so far."""
        self._write(self.folder / BEST, step, task, _NoOptimizer(), state, 1)

    def load_best(self, task: nn.Module) -> int:
        """Set the task to the best model; returns its step. On every process."""
        distributed.barrier()
        best = find_checkpoint(self.folder / BEST)
        load_model(best, task)
        return best.step

    def _write(
        self, folder: Path, step: int, task: nn.Module, optimizer: Any, state: Mapping[str, Any], kept: int
    ) -> None:
        if distributed.rank() != 0:
            return
        try:
            save_checkpoint(folder, step, task, optimizer, dict(state))
            for path in checkpoint_folders(folder):
                if int(path.name.removeprefix("step-")) > step:  # left by a run that was cut off and went back
                    path.rename(path.with_name(f".unfinished-{path.name}"))
            prune_checkpoints(folder, kept)
        except OSError as error:
            raise UserError(f"the checkpoint of step {step} cannot be written to {folder}: {error}") from error


class _NoOptimizer:
    """The best model goes without: nothing goes on from it."""

    param_groups: list[dict] = []
    state: dict = {}
