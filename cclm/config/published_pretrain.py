"""Released config files of pre-training and of text assignment, translated into our keys."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from cclm.config.block import Block, Values
from cclm.config.published_optimization import optimization_settings


class _MaskingKey(NamedTuple):
    """A setting of a source's texts."""

    ours: str
    """Our key."""
    read: Callable[[Block, str], float | bool]
    """Reads the published key as the right type."""


_MASKING_KEYS = {
    "max_words": _MaskingKey("max_words", Block.whole),
    "max_tokens": _MaskingKey("max_tokens", Block.whole),
    "mask_prob": _MaskingKey("mask_probability", Block.number),
    "max_masks": _MaskingKey("max_masks", Block.whole),
    "skipgram_prb": _MaskingKey("span_probability", Block.number),
    "skipgram_size": _MaskingKey("max_span", Block.whole),
    "mask_whole_word": _MaskingKey("whole_words", Block.flag),
}
"""Published key -> ours."""


def pretrain_settings(root: Block, processes: int) -> Values:
    """All settings of a pre-training file but those under `model`. Raises UserError as `Block` does.

    Args:
        processes: published batch sizes are per process and are multiplied by this.
    """
    images = _image_source(root, "images", "train_file", processes)
    regions = _image_source(root, "regions", "train_file_regions", processes)
    mono = _image_source(root, "images_mono", "train_file_mono", processes)
    texts = _source(root, "texts_para", "train_file_text", processes)
    block = root.block("texts_para")
    texts |= {key: block.text(key) for key in ("source_key", "target_key") if block.has(key)}
    regions |= _region_keys(root.block("regions"), processes)
    images["probability"] = 1.0  # see IGNORED
    if regions["probability"] > 0:
        regions["probability"] = 0.5  # as published, a fair coin chooses between an image step and a region step
    values = optimization_settings(root)
    sources = {"regions": regions, "images_mono": mono, "texts": texts}
    values["data"] = {"images": images} | {
        name: source if source["files"] and source["probability"] > 0 else None for name, source in sources.items()
    }
    values["objective"] = {
        "use_tlm": root.flag("use_tlm"),
        "sample_two_captions": root.flag("sample_2_captions"),
        "box_loss_on_whole_images": root.flag("calc_image_bbox_loss"),
    }
    values["training"] |= _length(root, images["batch_size"], values["training"]["epochs"])
    return values | {"task": "pretrain"}


def text_assignment_settings(root: Block, processes: int) -> Values:
    """As `pretrain_settings`, of a text assignment file."""
    for key in ("use_tlm", "sample_2_captions"):
        root.refuse(key, False, "text assignment has no such loss")
    images = _image_source(root, "images", "train_file", processes) | {"probability": 1.0}
    values = optimization_settings(root)
    values["training"] |= _length(root, images["batch_size"], values["training"]["epochs"])
    return values | {"task": "text_assignment", "data": {"images": images}}


def _source(root: Block, name: str, files_key: str, processes: int) -> Values:
    """What all sources have in common. `name`: key of the source's block; `files_key`: key of its files."""
    block = root.block(name)
    block.refuse("tokenized", False, "texts are tokenised here, not before")
    files, probability = root.files(files_key), block.number("iter_perc", 1.0)
    unused = 1 if not files or probability <= 0 else None  # the block of a source that is off may be incomplete
    values: Values = {
        "files": files,
        "batch_size": block.whole("batch_size", unused) * processes,
        "probability": max(probability, 0.0),
        "text": _masking(block, root),
    }
    if block.has("num_workers"):
        values["num_workers"] = block.whole("num_workers")
    return values


def _masking(block: Block, root: Block) -> Values:
    """Text settings of a source: from its own block, and what that leaves out from the top of the file."""
    values = {}
    for theirs, key in _MASKING_KEYS.items():
        blocks = [each for each in (block, root) if each.has(theirs)]  # both are asked, so the key counts as read
        if blocks:
            values[key.ours] = key.read(blocks[0], theirs)
    return values


def _image_source(root: Block, name: str, files_key: str, processes: int) -> Values:
    values, block = _source(root, name, files_key, processes), root.block(name)
    values |= {key: block.text(key) for key in ("image_key", "caption_key") if block.has(key)}
    values["image_is_path"] = block.flag("is_image_rpath")
    if block.has("language_chosen"):
        values["languages"] = block.files("language_chosen")
    return values


def _region_keys(block: Block, processes: int) -> Values:
    values: Values = {"code_switch": block.flag("code_switch"), "careful_hflip": block.flag("careful_hflip", True)}
    if block.has("max_images"):
        values["max_images"] = block.whole("max_images") * processes
    if block.has("max_regions"):
        values["max_regions"] = block.whole("max_regions")
    if block.has("min_perc_in_image"):
        values["min_box_inside"] = block.number("min_perc_in_image")
    return values


def _length(root: Block, batch_size: int, epochs: int) -> Values:
    """Epoch size and checkpoints. A published run saves every n steps and every m epochs, ours at the shorter one."""
    values: Values = {}
    intervals = [root.whole("ckpt_frequent_step")] if root.has("ckpt_frequent_step") else []
    if root.has("train_dataset_size"):
        values["dataset_size"] = root.whole("train_dataset_size")
        if root.has("ckpt_frequent"):
            intervals.append(root.whole("ckpt_frequent") * math.ceil(values["dataset_size"] / batch_size))
    return values | ({"save_every": min(intervals)} if intervals else {})
