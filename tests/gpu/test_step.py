"""What can be seen on a GPU alone: that the CPU never waits for it in a step, and that it computes what a CPU computes.

`python -m benchmarks.gpu` runs these tests, and the benchmark.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.step_inputs import KINDS
from cclm.config.optimization import OptimizerConfig
from cclm.tasks.losses import HardNegatives
from cclm.tasks.pretraining_task import PretrainTask
from cclm.training.environment import autocast
from cclm.training.optimizer import build_optimizer
from tests.unit.tasks.test_fast_paths import batch, losses_and_gradients, pretraining

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICE = torch.device("cuda")
ALL_KINDS = [*KINDS, "joined"]


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def trained(task: PretrainTask, kind: str, precision: str) -> dict[str, Tensor]:
    """A whole step, as in `cclm.training.loop`; no number of the GPU is read."""
    optimizer, generator = build_optimizer(task, OptimizerConfig()), torch.Generator(DEVICE).manual_seed(3)
    of = batch(kind).to(DEVICE)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    with autocast(precision, DEVICE):
        losses = task.train()(of, generator)
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    nn.utils.clip_grad_norm_(task.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    torch.cuda.set_sync_debug_mode("default")
    return losses


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_never_waits_for_the_gpu(kind: str, precision: str) -> None:
    task = pretraining().to(DEVICE)
    trained(task, kind, precision)  # libraries are loaded, and may wait, in the first step
    try:
        losses = trained(task, kind, precision)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_gpu_computes_the_losses_and_gradients_of_a_cpu(kind: str) -> None:
    """The hard negatives are those that the CPU drew, since equal seeds give other numbers on a GPU."""
    here, there, of, drawn = pretraining(), pretraining().to(DEVICE), batch(kind), []
    draw = here._negatives

    def draw_and_keep(*args: Any) -> HardNegatives:
        drawn.append(draw(*args))
        return drawn[0]

    def drawn_before(*_: object) -> HardNegatives:
        return HardNegatives(**{name: part.to(DEVICE) for name, part in vars(drawn[0]).items()})

    here._negatives, there._negatives = draw_and_keep, drawn_before
    wanted_losses, wanted = losses_and_gradients(here, of)
    losses = there.eval()(of.to(DEVICE), torch.Generator(DEVICE))
    torch.stack(list(losses.values())).sum().backward()
    found = {name: part.grad.cpu() for name, part in there.model.named_parameters() if part.grad is not None}
    assert losses.keys() == wanted_losses.keys() and found.keys() == wanted.keys()
    for name, loss in wanted_losses.items():
        torch.testing.assert_close(losses[name].cpu(), loss, rtol=1e-4, atol=1e-5, msg=name)
    largest = max(gradient.abs().max().item() for gradient in wanted.values())
    for name, gradient in wanted.items():
        scale = max(1e-2 * largest, gradient.abs().max().item())
        torch.testing.assert_close(found[name] / scale, gradient / scale, rtol=1e-3, atol=1e-4, msg=name)
