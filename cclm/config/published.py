"""The released CCLM config files, translated into ours.

Only this module and those beside it that are named `published_*` know the released keys and spellings. `Block`
remembers which keys were read. A key that is neither read nor listed in `IGNORED` is an error, so nothing in a
published file goes unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cclm.config.block import Block, Values, Where
from cclm.config.published_finetune import finetune_settings
from cclm.config.published_keys import IGNORED
from cclm.config.published_model import model_settings
from cclm.config.published_pretrain import pretrain_settings, text_assignment_settings


def translate(settings: Mapping[str, Any], path: Path, *, processes: int, where: Where) -> Values:
    """The settings of a published file under our keys, ready to be validated.

    Args:
        path: the file. Its `vision_config` and `text_encoder` are looked up in the working directory first, then in the
            file's folder and those above it.
        processes: published batch sizes are per process and are multiplied by this.
        where: place of a key in the file, for messages.

    Raises:
        UserError: unknown key, wrong type, or settings that contradict each other or cannot be built.
    """
    root = Block(settings, where)
    model = model_settings(root, path)
    if "images" in settings:
        # The released pre-training program needs the blocks of all its sources. Text assignment has images alone.
        only_images = not {"regions", "images_mono", "texts_para"} & set(settings)
        translate_task = text_assignment_settings if only_images else pretrain_settings
    else:
        translate_task = finetune_settings
    values = translate_task(root, processes)
    values["model"] = model
    root.finish(IGNORED)
    return values
