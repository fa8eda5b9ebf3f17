"""Settings of what a run leaves behind: how often checkpoints are made, and which are kept."""

from __future__ import annotations

from pydantic import Field

from cclm.config.base import Location, Settings


class CheckpointConfig(Settings):
    """Checkpoints of a run, the same in `output_dir` and in `output_hdfs`."""

    save_minutes: float | None = Field(10.0, gt=0)
    """Minutes of training between checkpoints, beside those after `training.save_every` steps; null: only those."""
    keep_last: int = Field(3, ge=1)
    """Number of newest checkpoints that are kept. Two others stay, too: the best one, and, until a newer one is
    verified, the one that the run went on from."""
    keep_every: int | None = Field(None, gt=0)
    """Steps between checkpoints that stay for good; one is made at each multiple of it."""
    max_failed_saves: int = Field(3, ge=1)
    """Number of saves which fail in a row that ends the run: otherwise it would train on with nothing to go back to."""
    scratch: Location | None = None
    """Local folder where checkpoints wait for their upload when `output_dir` is a URL; the system's if unset."""
