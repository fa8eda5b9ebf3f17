"""Items that need no model: learning rates, text cleaning, retrieval metrics, position tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cclm.checkpoints.resize import resize_position_table
from cclm.data.cleaning import clean_caption, clean_question
from cclm.metrics.recall import retrieval_metrics
from cclm.parity.comparison import Item
from cclm.parity.golden import Golden
from cclm.training.schedule import lr_factor

BASE_RATE, RATE_MULTIPLE, STEPS, WARMUP = 1e-4, 2, 60, 6


def arithmetic_items(golden: Golden) -> dict[str, Item]:
    """All items of this module."""
    items: dict[str, Item] = {}
    for step in range(STEPS + 1):
        rate = BASE_RATE * lr_factor(step, STEPS, WARMUP)
        rates = torch.tensor([rate, RATE_MULTIPLE * rate], dtype=torch.float64)
        items[f"extra.json/lr_60_steps_warmup_0.1/{step}"] = rates
    for index, line in enumerate(golden.section("text_cleaning")):
        prefix = f"extra.json/text_cleaning/{index}"
        items[f"{prefix}/caption_30"] = clean_caption(line["raw"], 30)
        items[f"{prefix}/caption_5"] = clean_caption(line["raw"], 5)
        items[f"{prefix}/question_10"] = clean_question(line["raw"], 10)
    return items | _metrics(golden.section("retrieval")) | _position_tables(golden)


def _metrics(given: dict[str, Any]) -> dict[str, Item]:
    image_to_text, text_to_image = np.array(given["scores_i2t"]), np.array(given["scores_t2i"])
    images, texts = image_to_text.shape
    owners = np.arange(texts) // (texts // images)
    metrics = retrieval_metrics(image_to_text, text_to_image, owners)
    items: dict[str, Item] = {f"extra.json/retrieval/metrics/{name}": value for name, value in metrics.items()}
    return items | {"extra.json/retrieval/captions_per_image": texts // images}


def _position_tables(golden: Golden) -> dict[str, Item]:
    return {
        "outputs/rel_pos_table_6": resize_position_table(golden.input("rel_pos_table"), 6),
        "more/rel_pos_table_529": resize_position_table(golden.input("rel_pos_table_169", "more"), 12),
    }
