"""Settings of what a run leaves behind: how often checkpoints are made, and which are kept."""

from __future__ import annotations

from pydantic import Field

from cclm.config.base import Settings


class CheckpointConfig(Settings):
    """Checkpoints of a run, the same in `output_dir` and in `output_hdfs`."""

    save_minutes: float | None = Field(10.0, gt=0)
    """Minutes of training between checkpoints, beside those after `training.save_every` steps; null: only those."""
    keep_last: int = Field(3, ge=1)
    """Newest checkpoints kept. The best one, and the one a run went on from until a newer one is verified, stay too."""
    keep_every: int | None = Field(None, gt=0)
    """Steps: a checkpoint is made at each multiple of it, and stays for good."""
    max_failed_saves: int = Field(3, ge=1)
    """So many saves that fail in a row end the run: better than training on with nothing to go back to."""
    scratch: str | None = None
    """Local folder where checkpoints wait for their upload when `output_dir` is a URL; the system's if unset."""
