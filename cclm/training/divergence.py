"""What is done about updates whose losses or gradients are infinite or not a number."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from cclm import distributed
from cclm.config.pretrain import TrainingConfig
from cclm.errors import UserError
from cclm.events import Journal, UpdatesSkipped
from cclm.metrics.running import Update

GRADIENT_NORM = "grad_norm"
"""Name of the gradients' norm among the values of an update."""


class NonFiniteLossError(UserError):
    """Training has diverged. Going on, or saving, would only hide when it happened."""


class Divergence:
    """Stops a run that diverges or, with `training.on_divergence: skip`, drops single updates.

    Gradients are those of all processes, so all processes drop the same updates.

    Args:
        optimizer: a fused one, which leaves weights and state as they are where it finds infinite gradients. It looks
            on its device, so the CPU does not wait for a GPU.
        journal: gets `UpdatesSkipped`.
    """

    def __init__(self, settings: TrainingConfig, optimizer: torch.optim.Optimizer, journal: Journal) -> None:
        self._skips, self._allowed = settings.on_divergence == "skip", settings.max_skipped_updates
        self._optimizer, self._journal = optimizer, journal
        self._in_a_row = 0
        self.skipped: Counter[str] = Counter()
        """Updates that this process has dropped, by kind of batch."""

    def watch(self, norm: Tensor) -> None:
        """Let the next `optimizer.step` do nothing if the norm of the gradients () is not finite."""
        if self._skips:
            self._optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]  # as GradScaler sets it

    def made(self, updates: Sequence[Update]) -> list[Update]:
        """Of the updates since the last call, those that were made. All processes call this.

        Raises:
            NonFiniteLossError: an update that was made is not finite, or too many in a row were dropped.
        """
        made = [update for update in updates if not (self._skips and _is_without_norm(update))]
        _refuse_non_finite(made)
        for update in updates:
            self._in_a_row = self._in_a_row + 1 if _is_without_norm(update) else 0
            if self._in_a_row > self._allowed:
                raise NonFiniteLossError(
                    f"training diverged: {self._in_a_row} updates in a row had gradients that are not finite, up to "
                    f"step {update.step}; training.max_skipped_updates allows {self._allowed}. Lower optimizer.lr, "
                    "lengthen the warm-up, or look at the data"
                )
        dropped = [update for update in updates if self._skips and _is_without_norm(update)]
        if dropped:
            self.skipped.update(update.kind for update in dropped)
            self._journal.emit(
                UpdatesSkipped(dropped[-1].step, dict(Counter(update.kind for update in dropped)), self.skipped.total())
            )
        return made


def _is_without_norm(update: Update) -> bool:
    return not math.isfinite(update.values.get(GRADIENT_NORM, 0.0))


def _refuse_non_finite(updates: Sequence[Update]) -> None:
    """Stop all processes together when one of them met a loss that is not finite.

    Raises:
        NonFiniteLossError: names the first such step, its kind of batch, and the losses.
    """
    bad = next((update for update in updates if update.non_finite), None)
    found = [(update.step, rank, update) for rank, update in enumerate(distributed.gather_objects(bad)) if update]
    if found:
        step, rank, update = min(found, key=lambda item: item[:2])
        lost = ", ".join(update.non_finite)
        raise NonFiniteLossError(
            f"training diverged: {lost} of the {update.kind} batch is not finite in step {step} (process {rank}); "
            "nothing was saved since. Lower optimizer.lr, lengthen the warm-up, or look at the data "
            "of that step; training.on_divergence=skip leaves out single updates"
        )
