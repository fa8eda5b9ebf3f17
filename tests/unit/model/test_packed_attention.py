"""Attention over packed sequences, and dropout with cheap draws."""

import pytest
import torch
import torch.nn.functional as F

from cclm.model.dropout import Dropout, keep_factors
from cclm.model.packed_attention import AttentionPlan, Unit, packed_attention

HEADS, WIDTH = 3, 4


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def plainly(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Queries (Q, H) over all keys and values (K, H) -> (Q, H)."""
    parts = (part.view(1, -1, HEADS, WIDTH).transpose(1, 2) for part in (query, key, value))
    return F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)[0]


def test_packed_attention_is_attention_of_each_sequence_alone() -> None:
    """Sequences of equal and other lengths, an empty one, several that share keys, and keys that nobody attends to."""
    queries, keys = [3, 2, 0, 3, 1], [4, 2, 5, 4]
    units = [Unit((0, 3), 0), Unit((1,), 2), Unit((2,), 1), Unit((4,), 3)]
    query, key, value = random(9, 12), random(15, 12, seed=1), random(15, 12, seed=2)
    packed = packed_attention(query, key, value, AttentionPlan.build(queries, keys, units, HEADS), 0.0)
    by_query, by_key = query.split(queries), list(zip(key.split(keys), value.split(keys), strict=True))
    of_query = {sequence: unit.keys for unit in units for sequence in unit.queries}
    plain = torch.cat([plainly(by_query[number], *by_key[of_query[number]]) for number in range(5)])
    torch.testing.assert_close(packed, plain)
    weights = torch.randn(9, 12, generator=torch.Generator().manual_seed(3))
    for mine, wanted in zip(
        torch.autograd.grad((packed * weights).sum(), [query, key, value]),
        torch.autograd.grad((plain * weights).sum(), [query, key, value]),
        strict=True,
    ):
        torch.testing.assert_close(mine, wanted)


def test_dropout_of_weights_has_the_gradient_of_its_draws() -> None:
    plan = AttentionPlan.build([4], [5], [Unit((0,), 0)], HEADS)
    inputs = [random(size, 12, seed=size).double().detach().requires_grad_() for size in (4, 5, 5)]

    def attended(*parts: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return packed_attention(*parts, plan, 0.5)

    # The function computes in float32, so differences are of a size that float32 resolves.
    assert torch.autograd.gradcheck(attended, inputs, eps=1e-2, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("cheap", [True, False])
@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_as_many_elements_are_dropped_as_asked(probability: float, cheap: bool) -> None:
    torch.manual_seed(0)
    factors = keep_factors((400, 500), probability, torch.float32, cheap=cheap)
    assert set(factors.unique().tolist()) == {0.0, factors.max().item()}
    assert factors.max().item() == pytest.approx(1 / (1 - probability), rel=1e-4)
    # Four standard deviations of 200,000 draws are at most 0.0045. The four elements of a draw are independent.
    dropped = (factors == 0).float()
    assert dropped.mean().item() == pytest.approx(probability, abs=0.005)
    both = dropped.view(-1, 4)
    for one, other in ((0, 1), (1, 2), (2, 3), (0, 3)):
        assert (both[:, one] * both[:, other]).mean().item() == pytest.approx(probability**2, abs=0.01)


def test_dropout_follows_the_seed_and_does_nothing_in_evaluation() -> None:
    dropout, states, residual = Dropout(0.3), random(7, 9), random(7, 9, seed=1)

    def dropped() -> torch.Tensor:
        torch.manual_seed(5)
        return dropout(states)

    assert torch.equal(dropped(), dropped())
    torch.manual_seed(5)
    torch.testing.assert_close(dropout.added(states, residual), dropped() + residual)
    assert torch.equal(dropout.eval()(states), states)
    assert torch.equal(dropout.added(states, residual), states + residual)
    assert (Dropout(1.0)(states) == 0).all()
