"""Settings of the optimizer and of its learning rate's course."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from cclm.config.base import Decay, Probability, Settings


class OptimizerConfig(Settings):
    """AdamW."""

    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    eps: float = Field(1e-8, gt=0)
    lr_mult: float = Field(2.0, gt=0)
    """Rate of parameters without initial weights, as a multiple of `lr`."""
    clip_grad_norm: float | None = Field(1.0, gt=0)


class ScheduleConfig(Settings):
    """Linear warm-up, then linear decay to 0."""

    warmup_steps: int | None = Field(None, ge=0)
    warmup_fraction: Probability | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_steps is not None and self.warmup_fraction is not None:
            raise ValueError("give warmup_steps or warmup_fraction, not both")
        return self
