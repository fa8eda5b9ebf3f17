"""The part of a config that saving reads."""

from dataclasses import dataclass

from cclm.config.output import CheckpointConfig


@dataclass
class Output:
    """Places of a run."""

    output_dir: str
    output_hdfs: str | None = None
    checkpoints: CheckpointConfig = CheckpointConfig()
