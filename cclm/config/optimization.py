"""Settings of the optimizer and of the course of its learning rate (docs/method.md, section Optimisation)."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from cclm.config.base import Decay, Probability, Settings


class OptimizerConfig(Settings):
    """AdamW."""

    lr: float = Field(1e-4, gt=0)
    """Highest learning rate, reached at the end of the warm-up."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay, as a multiple of the learning rate."""
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    """Decay of the running means of gradients and of squared gradients, per step."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the mean squared gradient."""
    lr_mult: float = Field(2.0, gt=0)
    """Rate of parameters without initial weights, as a multiple of `lr`."""
    clip_grad_norm: float | None = Field(1.0, gt=0)
    """Largest norm of the gradient of all parameters; null: no clipping."""


class ScheduleConfig(Settings):
    """Linear warm-up from 0, then linear decay to 0. Without either setting there is no warm-up."""

    warmup_steps: int | None = Field(None, ge=0)
    """Length of the warm-up, steps."""
    warmup_fraction: Probability | None = None
    """Length of the warm-up, as a fraction of all steps."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_steps is not None and self.warmup_fraction is not None:
            raise ValueError("give warmup_steps or warmup_fraction, not both")
        return self
