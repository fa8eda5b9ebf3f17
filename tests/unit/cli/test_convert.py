"""`cclm convert`: what it refuses before it converts anything."""

import argparse

import pytest
import torch

from cclm.checkpoints.published import read_published_file
from cclm.cli.convert import convert
from cclm.config.finetune import FINETUNE_CONFIGS, FinetuneConfig
from cclm.config.model import ModelConfig, TextConfig, VisionConfig
from cclm.errors import UserError
from cclm.training.initial_task import empty_task, initial_task, named_weights
from tests.checkpoint_files import make_trained, save_checkpoint

MODEL = ModelConfig(
    vision=VisionConfig(image_size=64, embed_dim=16, depths=(1, 1), num_heads=(1, 2), window_size=4),
    text=TextConfig(
        vocab_size=60, hidden_size=32, num_heads=2, intermediate_size=64, num_layers=4, num_text_layers=2,
        max_positions=64,
    ),
    embed_dim=16,
)  # fmt: skip
NAMES = {
    "retrieval": ("vision_proj.weight", "temp", "itm_head.0.weight", "text_encoder.encoder.layer.3.output.dense.bias"),
    "classification": ("cls_head.3.weight", "text_encoder.embeddings.word_embeddings.weight"),
    "answering": (
        "text_decoder.bert.encoder.layer.1.crossattention.self.query.weight",
        "text_decoder.cls.predictions.decoder.weight",
        "text_encoder.encoder.layer.0.attention.self.key.bias",
    ),
    "reasoning": ("cls_head.0.weight", "text_encoder.encoder.layer.5.crossattention.self.key.weight"),
    "text_assignment": ("ta_head.weight", "vision_proj.weight", "text_encoder.encoder.layer.5.output.LayerNorm.weight"),
}
"""Some of the names that the published programs give parameters of each task, besides those of the image encoder."""


def config_of(task: str) -> FinetuneConfig:
    """The least that each task needs."""
    data: dict[str, object] = {"train_files": ["a"], "validation_files": {"en": ["b"]}, "test_files": {"en": ["c"]}}
    rest: dict[str, object] = {}
    if task == "answering":
        data["answer_list"], rest["decoder_layers"] = "c", 2
    if task == "text_assignment":
        data = {"images": {"files": ["a"], "batch_size": 8}}
    return FINETUNE_CONFIGS[task].model_validate({"task": task, "model": MODEL.model_dump(), "data": data, **rest})


@pytest.mark.parametrize(
    ("out", "sentence"),
    [("/proc/out.th", "output folder /proc cannot be written to"), ("/nowhere/out.th", "/nowhere .* does not exist")],
)
def test_convert_looks_at_its_output_first(tmp_path, out, sentence):
    with pytest.raises(UserError, match=sentence):
        convert(argparse.Namespace(checkpoint=str(tmp_path), out=out))


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({}, "does not tell its config"),
        ({"config": {"task": "dancing"}}, "is of task dancing, which this version of cclm does not know"),
        ({"config": {"seed": "x"}}, "the config in .* cannot be used"),
    ],
)
def test_a_checkpoint_whose_config_cannot_be_used(tmp_path, state, sentence):
    path = save_checkpoint(tmp_path, 5, *make_trained(0), state)
    with pytest.raises(UserError, match=sentence):
        convert(argparse.Namespace(checkpoint=str(path), out=str(tmp_path / "out.th")))


def test_convert_under_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"since {tmp_path}/file is a file"):
        convert(argparse.Namespace(checkpoint=str(tmp_path), out=str(tmp_path / "file" / "out.th")))


@pytest.mark.parametrize("name", FINETUNE_CONFIGS)
def test_a_fine_tuned_model_comes_back_from_the_published_layout(tmp_path, name):
    """Each value, under the name that the published code gives it. Fine-tuning, such as few-shot, can start there."""
    config = config_of(name)
    torch.manual_seed(1)
    task = empty_task(config)
    names = [parameter for parameter, _ in task.named_parameters()]
    optimizer = torch.optim.AdamW([{"params": list(task.parameters()), "names": names}])
    path = save_checkpoint(tmp_path, 7, task, optimizer, {"config": config.model_dump(mode="json")})
    out = tmp_path / "out.th"
    convert(argparse.Namespace(checkpoint=str(path), out=str(out)))

    state = read_published_file(out)
    assert {*NAMES[name], "vision_encoder.layers.0.downsample.reduction.weight"} <= state.keys()
    assert not any(".bert." in key for key in state if key.startswith("text_encoder."))
    weights = named_weights(config, str(out), training=True)
    assert weights is not None and weights.task == name
    again = initial_task(config, weights)
    for (key, mine), (_, theirs) in zip(task.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(mine, theirs), key
