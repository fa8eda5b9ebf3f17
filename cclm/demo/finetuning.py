"""Fine-tuning files of every task, in the original formats and folder tree."""

from __future__ import annotations

from cclm.demo.files import World


def write_finetuning(world: World, train: int, test: int) -> None:
    """Write every task's files: `train` scenes in English, `test` scenes in each validation and test set."""
