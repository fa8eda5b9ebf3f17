"""How many processes can share the batches of a config."""

from __future__ import annotations

from cclm.config.pretrain import PretrainConfig
from cclm.errors import UserError

_KINDS = ("texts", "images_mono", "images", "regions")


def check_divisible(config: PretrainConfig, processes: int) -> None:
    """Global batch sizes must be divisible by the number of processes.

    Raises:
        UserError: names the first setting that is not.
    """
    sizes = {f"data.{kind}.batch_size": source.batch_size for kind in _KINDS if (source := getattr(config.data, kind))}
    if config.data.regions is not None:
        sizes["data.regions.max_images"] = config.data.regions.max_images
    for name, size in sizes.items():
        if size % processes:
            raise UserError(
                f"{name} = {size} cannot be shared by {processes} processes: make it a multiple of {processes}"
            )
