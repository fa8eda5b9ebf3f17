"""Keys of the released CCLM config files: how a file is recognised, and what is ignored in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

IGNORED: dict[str, str] = {
    "accelerator.SYNCBN": "the model has no batch normalisation",
    "accelerator.FP16_LOSS_SCALE": "bfloat16 needs no loss scaling",
    "images.iter_perc": "images are the main update of every step",
    "vision_config.hidden_act": "follows from the architecture",
    "vision_config.attention_dropout": "0 in every released file, and not built here",
    "vision_config.local_attn_depth": "regions are cut out of the last states (docs/method.md, section Model)",
}
"""Published keys without an effect here, and why."""

_OUR_KEYS = {"task", "base", "model", "data", "training", "objective", "schedule", "evaluation"}
_THEIR_KEYS = {
    *("train_file", "train_dataset_size", "images", "regions", "texts_para", "images_mono", "train_file_text"),
    *("vision_config", "text_encoder", "use_swin", "use_clip_vit", "image_res", "schedular", "accelerator"),
    *("val_file", "valid_file", "test_file", "batch_size_train", "k_test", "answer_list", "vqa_root"),
}


def is_published(settings: Mapping[str, Any]) -> bool:
    """Whether these are the keys of a published file."""
    return not _OUR_KEYS & set(settings) and len(_THEIR_KEYS & set(settings)) >= 2
