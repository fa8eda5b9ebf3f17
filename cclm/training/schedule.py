"""The learning rate of every outer step, as pure functions."""

from __future__ import annotations

from cclm.config.optimization import ScheduleConfig


def warmup_steps(config: ScheduleConfig, total: int) -> int:
    """Outer steps of warm-up in a run of `total`; a fraction is rounded down, as published."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    return int(total * (config.warmup_fraction or 0.0))


def lr_factor(step: int, total: int, warmup: int) -> float:
    """The factor of the base learning rates in outer step `step` (from 0).

    Rises linearly from 0 over `warmup` steps, then falls linearly to 0 at step `total`. As published, the first step of
    a run with warm-up has rate 0.
    """
    if step < warmup:
        return step / warmup
    return max(0, total - step) / max(1, total - warmup)
