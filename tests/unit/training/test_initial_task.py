"""Weights of a task: from pre-training or fine-tuning, published files or ours, another image size, another task."""

from pathlib import Path

import pytest
import torch

from cclm.checkpoints.load import model_tensors
from cclm.checkpoints.published import to_published, write_published_file
from cclm.checkpoints.resize import resize_position_table
from cclm.config.finetune import FINETUNE_CONFIGS
from cclm.errors import UserError
from cclm.model.cclm import CCLM
from cclm.training.initial_task import Weights, check_weights, initial_task, read_weights
from tests.unit.training.small_configs import config_of

TASKS = tuple(FINETUNE_CONFIGS)


def published(path: Path, module: torch.nn.Module, *, finetuned: bool) -> str:
    write_published_file(path, to_published(module, num_text_layers=1, finetuned=finetuned), {})
    return str(path)


@pytest.fixture(scope="module")
def pretrained() -> CCLM:
    torch.manual_seed(1)
    return CCLM(config_of("retrieval").model)


@pytest.mark.parametrize("task", TASKS)
def test_pretrained_weights_reach_every_part(task: str, pretrained: CCLM, tmp_path: Path) -> None:
    config = config_of(task)
    weights = read_weights(published(tmp_path / "p.th", pretrained, finetuned=False), config)
    check_weights(weights, config, training=True)
    found = initial_task(config, weights)
    source = dict(pretrained.named_parameters())
    fusion = "encoders.fusion_encoder.layers"
    text = "encoders.text_encoder.layers.0.feed_forward.up.weight"
    places = {text: text}
    if task in ("reasoning", "text_assignment"):
        places |= {f"{fusion}.1.{side}.self_attention.query.weight": f"{fusion}.1.self_attention.query.weight"
                   for side in ("left", "right")}  # fmt: skip
    if task == "answering":
        places["decoder.layers.1.cross_attention.key.weight"] = f"{fusion}.1.cross_attention.key.weight"
        places["decoder.embeddings.word.weight"] = "encoders.text_encoder.embeddings.word.weight"
    parameters = dict(found.named_parameters())
    for name, origin in places.items():
        assert parameters[name].equal(source[origin]), name
    assert initial_task(config, weights).state_dict().keys() == found.state_dict().keys()
    again = dict(initial_task(config, weights).named_parameters())
    assert all(again[name].equal(parameter) for name, parameter in parameters.items())  # new heads: from the seed


@pytest.mark.parametrize("task", TASKS)
def test_fine_tuned_weights_come_back_from_published_files(task: str, tmp_path: Path) -> None:
    config = config_of(task)
    torch.manual_seed(2)
    tuned = initial_task(config, None)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.normal_(std=0.05)
    weights = read_weights(published(tmp_path / "checkpoint_best.pth", tuned, finetuned=True), config)
    assert weights.task == task
    check_weights(weights, config, training=False)
    found = dict(initial_task(config, weights).named_parameters())
    assert all(found[name].equal(parameter) for name, parameter in tuned.named_parameters())


def test_position_tables_take_the_image_size_of_fine_tuning(pretrained: CCLM, tmp_path: Path) -> None:
    larger = config_of("classification", side=64)
    weights = read_weights(published(tmp_path / "p.th", pretrained, finetuned=False), larger)
    found = dict(initial_task(larger, weights).named_parameters())
    name = "encoders.image_encoder.trunk.layers.0.blocks.0.attn.relative_position_bias_table"
    before = dict(pretrained.named_parameters())[name].detach()
    assert before.shape[0] == 7**2 and found[name].shape[0] == 15**2
    assert found[name].equal(resize_position_table(before, 8))


def test_reasoning_takes_the_encoders_of_text_assignment(tmp_path: Path) -> None:
    assignment = initial_task(config_of("text_assignment"), None)
    config = config_of("reasoning")
    ours = Weights("ta", "text_assignment", 5, model_tensors(assignment), published=False)
    theirs = read_weights(published(tmp_path / "ta.th", assignment, finetuned=True), config)
    for weights in (ours, theirs):
        assert weights.task == "text_assignment"
        check_weights(weights, config, training=True)
        found = dict(initial_task(config, weights).named_parameters())
        for name, parameter in assignment.named_parameters():
            assert not name.startswith("encoders.") or found[name].equal(parameter), name


@pytest.mark.parametrize(
    ("have", "want", "training", "sentence"),
    [
        ("classification", "answering", True, "was fine-tuned for classification, but the config's task is answering"),
        ("retrieval", "classification", True, "give a pre-trained one, or one fine-tuned for classification"),
        ("reasoning", "retrieval", False, "give one fine-tuned for retrieval"),
        ("text_assignment", "reasoning", False, "was fine-tuned for text_assignment"),
        ("pretrain", "reasoning", False, "was pre-trained and never fine-tuned for reasoning"),
    ],
)
def test_weights_of_another_task_are_refused(have: str, want: str, training: bool, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_weights(Weights("x.th", have, 0, {}, published=True), config_of(want), training=training)


def test_retrieval_may_be_tested_as_pretrained() -> None:
    check_weights(Weights("x.th", "pretrain", 0, {}, published=True), config_of("retrieval"), training=False)


def test_weights_of_another_size_are_refused(pretrained: CCLM) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in model_tensors(pretrained).items()}
    tensors["space.image_projection.weight"] = torch.zeros(9, 32)
    with pytest.raises(UserError, match=r"space.image_projection.weight has shape \(9, 32\), the config asks for"):
        initial_task(config_of("classification"), Weights("mine", "pretrain", 1, tensors, published=False))


def test_weights_made_with_other_settings_name_them(pretrained: CCLM) -> None:
    config = config_of("classification")
    made = config.model.model_dump(mode="json")
    made["text"] |= {"vocab_size": 7, "dropout": 0.9}
    weights = Weights("mine", "pretrain", 1, model_tensors(pretrained), published=False, model=made)
    weights.tensors["space.image_projection.weight"] = torch.zeros(9, 32)
    with pytest.raises(UserError) as caught:
        initial_task(config, weights)
    assert str(caught.value).endswith(f"(model.text.vocab_size was 7 and is {config.model.text.vocab_size})")
