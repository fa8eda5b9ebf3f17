"""A config of each fine-tuning task, with a model of a few thousand parameters."""

from typing import Any

from cclm.config.finetune import FINETUNE_CONFIGS, FinetuneConfig

TEXT = {
    "vocab_size": 50, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "num_layers": 3,
    "num_text_layers": 1, "max_positions": 48,
}  # fmt: skip


def config_of(task: str, side: int = 32) -> FinetuneConfig:
    """Windows cover a quarter of the first stage: 4 patches at 32 px, 8 at 64 px."""
    vision = {"image_size": side, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": side // 8}
    files = {"train_files": "t", "validation_files": {"en": "v"}, "test_files": {"en": "t"}}
    values: dict[str, Any] = {"task": task, "model": {"vision": vision, "text": TEXT, "embed_dim": 8}, "data": files}
    if task == "answering":
        values |= {"decoder_layers": 2, "data": files | {"answer_list": "a"}}
    if task == "text_assignment":
        values["data"] = {"images": {"files": ["f"], "batch_size": 2}}
    return FINETUNE_CONFIGS[task].model_validate(values)
