"""Every fast path computes what the plain way computes: losses and gradients, to rounding."""

import random

import pytest
import torch
from torch import Tensor

from benchmarks.step_inputs import KINDS, batch_of, made_up
from benchmarks.step_plain import PlainTask
from cclm.checkpoints.initial import build_model
from cclm.config.compute import ComputeConfig
from cclm.config.model import ModelConfig, TextConfig, VisionConfig
from cclm.config.pretrain import ObjectiveConfig
from cclm.data.batches.batch import JoinedTextBatch, ParallelTextBatch, PretrainBatch
from cclm.tasks.fused_cross_entropy import fused_cross_entropy
from cclm.tasks.pretraining_task import PretrainTask

CONFIG = ModelConfig(
    vision=VisionConfig(image_size=64, embed_dim=16, depths=(2, 2), num_heads=(1, 2), window_size=4, drop_path=0.0),
    text=TextConfig(
        vocab_size=300, hidden_size=32, num_heads=2, intermediate_size=64, num_layers=4, num_text_layers=2,
        max_positions=130, initializer_range=0.2,
    ),
    embed_dim=16,
)  # fmt: skip
SWITCHES = tuple(name for name in ComputeConfig.model_fields if name not in ("recompute_layers", "accumulate"))
ALL_OFF = dict.fromkeys(SWITCHES, False)


def batch(kind: str, size: int = 5, seed: int = 0) -> PretrainBatch:
    texts = made_up(CONFIG.text.vocab_size, random.Random(0), images=20)
    if kind != "joined":
        return batch_of(kind, texts, CONFIG, size, seed)
    pairs = batch_of("texts", texts, CONFIG, size, seed)
    assert isinstance(pairs, ParallelTextBatch)
    return JoinedTextBatch(pairs.source, pairs.target, pairs.source_masked)


def losses_and_gradients(task: torch.nn.Module, of: PretrainBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    losses = task.eval()(of, torch.Generator().manual_seed(3))
    torch.stack(list(losses.values())).sum().backward()
    gradients = {
        name.partition(".")[2]: parameter.grad
        for name, parameter in task.named_parameters()
        if parameter.grad is not None
    }
    return losses, gradients


def assert_equal(one: torch.nn.Module, other: torch.nn.Module, of: PretrainBatch) -> None:
    losses, gradients = losses_and_gradients(one, of)
    other_losses, other_gradients = losses_and_gradients(other, of)
    assert losses.keys() == other_losses.keys() and gradients.keys() == other_gradients.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, other_losses[name], rtol=1e-5, atol=1e-6, msg=name)
    # A bias of keys has no gradient but rounding, so each gradient is also compared with the largest of all.
    largest = max(gradient.abs().max().item() for gradient in other_gradients.values())
    for name, gradient in gradients.items():
        scale = max(1e-2 * largest, other_gradients[name].abs().max().item())
        torch.testing.assert_close(gradient / scale, other_gradients[name] / scale, rtol=1e-4, atol=2e-5, msg=name)


def pretraining(**compute: bool | int) -> PretrainTask:
    return PretrainTask(build_model(CONFIG, seed=3), ObjectiveConfig(), ComputeConfig(**compute))


@pytest.mark.parametrize("kind", KINDS)
def test_all_fast_paths_equal_the_published_step(kind: str) -> None:
    assert_equal(pretraining(), PlainTask(build_model(CONFIG, seed=3)), batch(kind))


@pytest.mark.parametrize("kind", [*KINDS, "joined"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_each_fast_path_equals_the_step_without_it(kind: str, switch: str) -> None:
    assert_equal(pretraining(**{switch: False}), pretraining(), batch(kind, seed=1))


@pytest.mark.parametrize("kind", [*KINDS, "joined"])
def test_all_switches_can_be_off(kind: str) -> None:
    assert_equal(pretraining(**ALL_OFF), pretraining(), batch(kind, seed=2))


def test_a_text_without_a_masked_place_takes_part_in_matching() -> None:
    of = batch("images")
    kept = of.masked.rows != 2
    masked = type(of.masked)(of.masked.tokens, of.masked.rows[kept], of.masked.columns[kept], of.masked.labels[kept])
    of = type(of)(of.images, of.text, masked)
    assert_equal(pretraining(**ALL_OFF), pretraining(), of)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_decides_all_draws_of_a_step(kind: str) -> None:
    task, of = pretraining().train(), batch(kind)

    def losses(seed: int) -> list[float]:
        torch.manual_seed(seed)
        return [loss.item() for loss in task(of, torch.Generator().manual_seed(seed)).values()]

    assert losses(1) == losses(1) != losses(2)


@pytest.mark.parametrize("kind", [*KINDS, "joined"])
def test_layers_that_are_computed_again_drop_the_same(kind: str) -> None:
    """Training mode, so that draws of the second computation must be those of the first."""

    def step(*, recompute: bool) -> dict[str, Tensor]:
        torch.manual_seed(1)
        task = pretraining(recompute_layers=recompute)
        losses = task.train()(batch(kind), torch.Generator().manual_seed(3))
        torch.stack(list(losses.values())).sum().backward()
        gradients = {name: part.grad for name, part in task.named_parameters() if part.grad is not None}
        return losses | gradients

    kept, again = step(recompute=False), step(recompute=True)
    assert kept.keys() == again.keys()
    for name, value in kept.items():
        assert torch.equal(value, again[name]), name


@pytest.mark.parametrize("kind", [*KINDS, "joined"])
def test_a_batch_in_parts_has_the_losses_and_gradients_of_the_whole(kind: str) -> None:
    """Of parts that are not equally large, with and without all fast paths."""
    assert_equal(pretraining(accumulate=2), pretraining(), batch(kind, seed=1))
    assert_equal(pretraining(accumulate=9, **ALL_OFF), pretraining(), batch(kind, seed=1))


@pytest.mark.parametrize("kind", [*KINDS, "joined"])
@pytest.mark.parametrize("layers", [False, True], ids=["parts", "parts_and_layers"])
def test_parts_that_are_computed_again_drop_the_same(kind: str, layers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training mode, gradients equal those of the same parts whose results were all kept."""

    def step(*, recompute_layers: bool) -> dict[str, Tensor]:
        torch.manual_seed(1)
        task = pretraining(accumulate=2, recompute_layers=recompute_layers)
        losses = task.train()(batch(kind), torch.Generator().manual_seed(3))
        torch.stack(list(losses.values())).sum().backward()
        gradients = {name: part.grad for name, part in task.named_parameters() if part.grad is not None}
        return losses | gradients

    twice = step(recompute_layers=layers)
    monkeypatch.setattr("cclm.tasks.accumulation.checkpoint", lambda compute, of, **_: compute(of))
    kept = step(recompute_layers=False)
    assert kept.keys() == twice.keys()
    for name, value in kept.items():
        assert torch.equal(value, twice[name]), name


def test_of_parts_only_the_results_are_kept() -> None:
    """Before the backward pass, which computes each part once more."""
    kept = {}
    for parts in (1, 4):
        task, of, rows, saved = pretraining(accumulate=parts).train(), batch("images", size=8), [], {}
        encoder = task.model.encoders.image_encoder
        encoder.register_forward_pre_hook(lambda _, images, rows=rows: rows.append(len(images[0])))

        def keep(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            losses = task(of, torch.Generator().manual_seed(3))
        assert rows == [8 // parts] * parts
        kept[parts] = sum(saved.values())
        torch.stack(list(losses.values())).sum().backward()
        assert rows == [8 // parts] * (parts if parts == 1 else 2 * parts)
    assert kept[4] < 0.1 * kept[1]


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_cross_entropy_in_pieces_is_that_of_all_logits(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(shape, generator=generator, requires_grad=True) for shape in ((20, 8), (50, 8), (50,))
    )
    labels = torch.randint(0, 50, (20,), generator=generator)
    monkeypatch.setattr("cclm.tasks.fused_cross_entropy._ELEMENTS", {"cpu": rows * 50})
    whole = torch.nn.functional.cross_entropy(hidden @ weight.T + bias, labels)
    pieces = fused_cross_entropy(hidden, weight, bias, labels)
    torch.testing.assert_close(pieces, whole)
    for mine, wanted in zip(
        torch.autograd.grad(3 * pieces, [hidden, weight, bias]),
        torch.autograd.grad(3 * whole, [hidden, weight, bias]),
        strict=True,
    ):
        torch.testing.assert_close(mine, wanted)
