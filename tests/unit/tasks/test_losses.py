"""Losses on hand-worked cases, and what golden numbers cannot say: draws, bounds, edge cases."""

import pytest
import torch
import torch.nn.functional as F

from cclm.tasks import losses


def unit(rows: int, width: int = 8, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_equal_ids_share_the_target() -> None:
    """Two captions of one image: with identical features the best possible loss is ln 2, and it is reached."""
    features = torch.eye(3)[[0, 0, 1]]
    temperature = torch.tensor(0.01)
    loss = losses.contrastive(features, features, temperature, ids=torch.tensor([7, 7, 8]))
    assert loss.item() == pytest.approx(2 / 3 * torch.tensor(2.0).log().item(), abs=1e-5)


def test_rows_with_several_ids_belong_together_where_they_share_one() -> None:
    """Row 1 shares an id with both others, which share none with each other."""
    ids = torch.tensor([[1, 2], [2, 3], [4, 3]])
    together = losses.share_an_id(ids)
    assert together.tolist() == [[True, True, False], [True, True, True], [False, True, True]]
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        drawn = losses.draw_hard_negatives(unit(3), unit(3, seed=1), torch.tensor(0.07), generator, ids)
        assert drawn.exist.tolist() == [True, False, True]
        assert drawn.left_of_right[[0, 2]].tolist() == drawn.right_of_left[[0, 2]].tolist() == [2, 0]
    logits, temperature = unit(3) @ unit(3, seed=1).T / 0.5, torch.tensor(0.5)
    spread = together.float() / together.float().sum(dim=1, keepdim=True)
    expected = (F.cross_entropy(logits, spread) + F.cross_entropy(logits.T, spread)) / 2
    torch.testing.assert_close(losses.contrastive(unit(3), unit(3, seed=1), temperature, ids=ids), expected)


def test_hard_negatives_follow_the_softmax() -> None:
    left, right, temperature = unit(4), unit(4, seed=1), torch.tensor(0.5)
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(4, 4)
    draws = 4000
    for _ in range(draws):
        drawn = losses.draw_hard_negatives(left, right, temperature, generator)
        counts[torch.arange(4), drawn.right_of_left] += 1
    weights = ((left @ right.T / temperature).softmax(dim=1) + 1e-5).fill_diagonal_(0)
    expected = weights / weights.sum(dim=1, keepdim=True)
    assert counts.diagonal().sum() == 0
    # Four standard deviations of a binomial with 4000 draws are at most 0.032.
    torch.testing.assert_close(counts / draws, expected, rtol=0, atol=0.035)


def test_negatives_never_share_the_id_and_the_generator_decides() -> None:
    features, ids = unit(6), torch.tensor([1, 1, 2, 2, 2, 3])
    for seed in range(50):
        drawn = losses.draw_hard_negatives(
            features, features, torch.tensor(0.07), torch.Generator().manual_seed(seed), ids
        )
        again = losses.draw_hard_negatives(
            features, features, torch.tensor(0.07), torch.Generator().manual_seed(seed), ids
        )
        assert (ids[drawn.left_of_right] != ids).all() and (ids[drawn.right_of_left] != ids).all()
        assert torch.equal(drawn.left_of_right, again.left_of_right)


def test_rows_without_negatives_are_left_out() -> None:
    """All ids equal crashes as published; here only the positives count."""
    features = unit(3)
    ids = torch.tensor([5, 5, 5])
    drawn = losses.draw_hard_negatives(features, features, torch.tensor(0.07), torch.Generator(), ids)
    assert not drawn.exist.any()
    logits = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    positives = F.cross_entropy(logits[:3], torch.ones(3, dtype=torch.int64))
    torch.testing.assert_close(losses.matching(logits, drawn.exist), positives)
    half = torch.tensor([True, False, True])
    kept = torch.cat([logits[:3], logits[[3, 5]], logits[[6, 8]]])
    labels = torch.tensor([1, 1, 1, 0, 0, 0, 0])
    torch.testing.assert_close(losses.matching(logits, half), F.cross_entropy(kept, labels))


def test_giou_by_hand() -> None:
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]])
    b = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    # 1/7 - (9-7)/9; apart: 0 - 1/3; equal: 1; a point inside a box: 0 - 0.
    expected = torch.tensor([1 / 7 - 2 / 9, -1 / 3, 1.0, 0.0])
    torch.testing.assert_close(losses.generalized_iou(a, b), expected)


def test_no_region_costs_nothing() -> None:
    predicted = torch.rand(3, 4, requires_grad=True)
    box = losses.boxes(predicted, torch.rand(3, 4), torch.zeros(3, dtype=torch.bool))
    assert box.l1.item() == 0 and box.giou.item() == 0
    (box.l1 + box.giou).backward()
    assert predicted.grad.isfinite().all() and predicted.grad.abs().sum() == 0
