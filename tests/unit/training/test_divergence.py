"""What dropping an update stands on: torch's fused AdamW heeds `found_inf`, which torch does not document."""

import pytest
import torch
from torch import nn

from cclm.config.optimization import OptimizerConfig
from cclm.training.optimizer import build_optimizer


class _Task(nn.Linear):
    def fresh_parameters(self) -> set[str]:
        return set()


@pytest.mark.parametrize("found_inf", [0.0, 1.0])
def test_the_optimizer_leaves_weights_and_state_alone_where_it_is_told_of_infinite_gradients(found_inf: float) -> None:
    task = _Task(3, 2)
    before = [parameter.detach().clone() for parameter in task.parameters()]
    optimizer = build_optimizer(task, OptimizerConfig())
    task(torch.ones(4, 3)).sum().backward()
    optimizer.found_inf = torch.tensor(found_inf)
    optimizer.step()
    is_dropped = [torch.equal(*pair) for pair in zip(before, task.parameters(), strict=True)]
    assert is_dropped == [bool(found_inf)] * 2
    assert all(float(state["step"]) == 1 - found_inf for state in optimizer.state.values())
