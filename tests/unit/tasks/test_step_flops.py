"""What FlopCounter counts from shapes is what torch counts in a real step, forward and backward."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from cclm.checkpoints.initial import build_model
from cclm.config.compute import ComputeConfig
from cclm.config.model import ModelConfig, TextConfig, VisionConfig
from cclm.config.pretrain import ObjectiveConfig
from cclm.data.batches.batch import ImageTextBatch, JoinedTextBatch, MaskedText, ParallelTextBatch, RegionTextBatch
from cclm.data.batches.finetuning_batch import AnswerBatch, ClassificationBatch, PairBatch, RetrievalBatch
from cclm.sequences import Sequences
from cclm.tasks.answering import AnsweringTask
from cclm.tasks.classification import ClassificationTask
from cclm.tasks.pretraining_task import PretrainTask
from cclm.tasks.reasoning import PairTask, TextAssignmentTask
from cclm.tasks.retrieval import RetrievalTask
from cclm.tasks.step_flops import FlopCounter

TEXT = TextConfig(
    vocab_size=60, hidden_size=32, num_heads=2, intermediate_size=48, num_layers=5, num_text_layers=2, max_positions=32
)
VISIONS = {
    # The side of the second stage is no multiple of the window, and the third stage is smaller than the window.
    "swin": VisionConfig(image_size=48, embed_dim=8, depths=(1, 2, 1), num_heads=(1, 2, 2), window_size=4),
    "deit": VisionConfig(architecture="deit", image_size=32, patch_size=8, embed_dim=32, depths=(2,), num_heads=(2,)),
    "clip_vit": VisionConfig(
        architecture="clip_vit", image_size=32, patch_size=8, embed_dim=32, depths=(3,), num_heads=(4,)
    ),
}


PLAIN = ComputeConfig(
    packed_texts=False, unpadded_attention=False, read_positions=False, shared_self_attention=False,
    fused_cross_entropy=False,
)  # fmt: skip
"""All positions of all texts are computed, with padding. What is counted does not depend on what a step saves of it."""


def config_with(vision: str) -> ModelConfig:
    return ModelConfig(vision=VISIONS[vision], text=TEXT, embed_dim=24)


def texts(*lengths: int) -> Sequences:
    return Sequences.from_lists([[0, *[5] * (length - 2), 2] for length in lengths])


def masked(*lengths: int) -> MaskedText:
    ones = torch.ones(len(lengths), dtype=torch.int64)
    return MaskedText(texts(*lengths), torch.arange(len(lengths)), ones, 9 * ones)


def images(rows: int, side: int) -> torch.Tensor:
    return torch.randint(0, 256, (rows, side, side, 3), dtype=torch.uint8)


def batches(vision: str) -> dict[str, Any]:
    """A batch of each kind of step."""
    side, stride = VISIONS[vision].image_size, VISIONS[vision].total_stride
    patches = torch.ones(4, 1 + (side // stride) ** 2, dtype=torch.bool)
    text = texts(4, 7, 5, 9)
    return {
        "images": ImageTextBatch(images(4, side), text, masked(4, 7, 5, 9)),
        "two captions": ImageTextBatch(images(4, side), text, masked(4, 7, 5, 9), texts(3, 3, 11, 4)),
        "regions": RegionTextBatch(
            images=images(3, side),
            text=text,
            masked=masked(4, 7, 5, 9),
            image_of_text=torch.tensor([0, 1, 1, 2]),
            patches=patches,
            boxes=torch.full((4, 4), 0.5),
            is_whole_image=torch.zeros(4, dtype=torch.bool),
        ),
        "texts": ParallelTextBatch(texts(6, 3, 5, 4), masked(6, 3, 5, 4), text),
        "joined": JoinedTextBatch(texts(6, 3, 5, 4), text, masked(9, 9, 9, 12)),
        "assignment": ImageTextBatch(images(4, side), text, masked(4, 7, 5, 9)),
        "retrieval": RetrievalBatch(images(4, side), text, torch.tensor([1, 2, 3, 3])),
        "xvnli": ClassificationBatch(images(4, side), text, torch.tensor([0, 1, 2, 0])),
        "pair": PairBatch(images(4, side), images(4, side), text, torch.tensor([0, 1, 1, 0])),
        "answers": AnswerBatch(
            images(4, side), text, texts(3, 4, 5, 3, 3, 4), torch.tensor([0, 1, 1, 2, 3, 3]), torch.ones(6)
        ),
    }


def task_for(kind: str, config: ModelConfig) -> nn.Module:
    model = build_model(config, seed=1)
    tasks = {
        "assignment": lambda: TextAssignmentTask(model),
        "retrieval": lambda: RetrievalTask(model),
        "xvnli": lambda: ClassificationTask(model, 3),
        "pair": lambda: PairTask(model),
        "answers": lambda: AnsweringTask(model, num_decoder_layers=2),
    }
    return tasks[kind]() if kind in tasks else PretrainTask(model, ObjectiveConfig(), PLAIN)


class WithoutModules(ModuleTracker):
    """Counts are not kept apart by module: torch's tracker fails on modules that are called without gradient."""

    def __enter__(self) -> "WithoutModules":
        return self

    def __exit__(self, *error: object) -> None:
        return None


def counted_by_torch(task: nn.Module, batch: Any) -> int:
    """Operations of a training step. Attention is written out: its fused kernels compute a part of it twice."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = WithoutModules()
    with sdpa_kernel(SDPBackend.MATH), counter:
        sum(task(batch, torch.Generator().manual_seed(0)).values()).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", batches("swin"))
@pytest.mark.parametrize("vision", VISIONS)
def test_the_count_is_torchs(vision: str, kind: str) -> None:
    config, batch = config_with(vision), batches(vision)[kind]
    task = task_for(kind, config)
    counted = FlopCounter(task, config, processes=1).count(batch)
    assert counted.computed == counted_by_torch(task, batch)
    assert counted.real < counted.computed


@pytest.mark.parametrize("kind", batches("swin"))
def test_without_padding_both_counts_are_the_same(kind: str) -> None:
    config, batch = config_with("swin"), batches("swin")[kind]
    counter = FlopCounter(task_for(kind, config), config, processes=1)
    counted = counter.count(with_full_lengths(batch))
    assert counted.real == counted.computed


def with_full_lengths(value: Any) -> Any:
    """A batch whose texts all have 12 tokens."""
    if isinstance(value, Sequences):
        return texts(*[12] * len(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {each.name: with_full_lengths(getattr(value, each.name)) for each in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    return copy.copy(value)


def test_padding_costs_what_longer_texts_would() -> None:
    """The same texts beside a longer one ask for what they asked for before, and the longer one on top."""
    config = config_with("swin")
    counter = FlopCounter(task_for("xvnli", config), config, processes=1)

    def real(*lengths: int) -> float:
        rows = len(lengths)
        batch = ClassificationBatch(images(rows, 48), texts(*lengths), torch.zeros(rows, dtype=torch.int64))
        return counter.count(batch).real

    assert real(4, 5, 30) == real(4) + real(5) + real(30)


def test_contrast_compares_the_rows_of_all_processes() -> None:
    config, batch = config_with("swin"), batches("swin")["retrieval"]
    one, four = (FlopCounter(task_for("retrieval", config), config, processes).count(batch) for processes in (1, 4))
    assert four.real - one.real == 3 * 2 * 24 * (16 * 16 - 4 * 4)
