"""Losses: tensors in, scalars out.

Source: arXiv 2206.00621, section 3.2, with the details of the published code; docs/method.md, section Pre-training
objectives. Losses are float32 scalars ().

Dimension letters: B rows of this process, G = B x processes, E width of the shared space, V vocabulary,
M masked tokens, K ids of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cclm import distributed


def contrastive(
    left: Tensor, right: Tensor, temperature: Tensor, *, ids: Tensor | None = None, global_gradient: bool = False
) -> Tensor:
    """InfoNCE: rows i of both sides belong together; all other rows of the global batch are negatives.

    Args:
        left, right: (B, E) float32 unit features.
        temperature: () scalar.
        ids: (B,) or (B, K) int64, optional. Rows that share an id belong together, too (several captions of one
            image). The target is spread evenly over them.
        global_gradient: see `distributed.gather_with_gradient`.

    Returns:
        Mean of the cross-entropies of both directions, ().
    """
    all_left = distributed.gather_with_gradient(left, global_gradient=global_gradient)  # (G, E)
    all_right = distributed.gather_with_gradient(right, global_gradient=global_gradient)  # (G, E)
    # In bfloat16, rounding a similarity and dividing it by a temperature of 0.07 would give an error of 0.05.
    with torch.autocast(left.device.type, enabled=False):
        logits = all_left @ all_right.T / temperature  # (G, G)
    if ids is None:
        targets = torch.arange(logits.shape[0], device=logits.device)
        return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    same = share_an_id(distributed.gather_rows(ids)).float()  # (G, G), symmetric
    spread = same / same.sum(dim=1, keepdim=True)  # each row sums to 1
    return (F.cross_entropy(logits, spread) + F.cross_entropy(logits.T, spread)) / 2


def share_an_id(ids: Tensor) -> Tensor:
    """(G,) or (G, K) int64 -> (G, G) bool, symmetric: whether two rows share at least one of their K ids."""
    ids = ids.reshape(len(ids), -1)  # (G, K)
    pairs = [(one, other) for one in ids.T for other in ids.T]  # one at a time: (G, G, K, K) would take much memory
    return torch.stack([one[:, None] == other[None, :] for one, other in pairs]).any(dim=0)


@dataclass(frozen=True)
class HardNegatives:
    """For each row, one row of the other side that does not belong to it and is probably similar."""

    left_of_right: Tensor
    """(B,) int64: the left row drawn for right row i."""
    right_of_left: Tensor
    """(B,) int64: the right row drawn for left row i."""
    exist: Tensor
    """(B,) bool: False where a row has no possible negative, as all rows share an id with it. What is drawn there must
    not count."""


@torch.no_grad()
def draw_hard_negatives(
    left: Tensor, right: Tensor, temperature: Tensor, generator: torch.Generator, ids: Tensor | None = None
) -> HardNegatives:
    """Draw negatives from this process's rows with probability softmax(similarity / temperature) + 1e-5.

    Args:
        left, right: (B, E) float32 unit features; row i of both sides belongs together.
        generator: on the features' device.
        ids: (B,) or (B, K) int64, optional. Rows that share an id are no negatives of each other.
    """
    with torch.autocast(left.device.type, enabled=False):
        similarity = left @ right.T / temperature  # (B, B)
    if ids is None:
        possible = ~torch.eye(len(left), dtype=torch.bool, device=left.device)
    else:
        possible = ~share_an_id(ids)  # (B, B), symmetric
    exist = possible.any(dim=1)
    return HardNegatives(
        left_of_right=_draw(similarity.T, possible, exist, generator),
        right_of_left=_draw(similarity, possible, exist, generator),
        exist=exist,
    )


def _draw(similarity: Tensor, possible: Tensor, exist: Tensor, generator: torch.Generator) -> Tensor:
    """One possible column for each row of (B, B) -> (B,) int64. Rows without a possible column get any."""
    # Features that are not finite must not break the draw: the training loop stops at the loss, which is not finite
    # either.
    weights = (similarity.softmax(dim=1).nan_to_num(nan=1.0) + 1e-5).masked_fill(~possible, 0.0)
    weights = torch.where(exist[:, None], weights, torch.ones_like(weights))
    return torch.multinomial(weights, 1, generator=generator)[:, 0]


def matching(logits: Tensor, negatives_exist: Tensor) -> Tensor:
    """Cross-entropy over B positives followed by 2B negatives, (). Rows without a possible negative are left out.

    Args:
        logits: (3B, 2): B pairs that belong together, B of (drawn left, right), B of (left, drawn right). Class 1 means
            that the pair belongs together.
        negatives_exist: (B,) bool.
    """
    batch = len(negatives_exist)
    labels = torch.zeros(3 * batch, dtype=torch.int64, device=logits.device)
    labels[:batch] = 1
    counts = torch.cat([torch.ones_like(negatives_exist), negatives_exist, negatives_exist]).float()  # (3B,)
    each = F.cross_entropy(logits.float(), labels, reduction="none")
    return (each * counts).sum() / counts.sum()


def masked_tokens(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of masked positions: logits (M, V) and labels (M,) int64 -> ()."""
    return F.cross_entropy(logits.float(), labels)


@dataclass(frozen=True)
class BoxLosses:
    """Two losses of the same boxes."""

    l1: Tensor
    """() summed over coordinates."""
    giou: Tensor
    """() 1 - GIoU."""


def boxes(predicted: Tensor, target: Tensor, counts: Tensor) -> BoxLosses:
    """L1, summed over coordinates, and 1 - GIoU. Each is averaged over the texts that count, and is 0 if none does.

    Args:
        predicted, target: (B, 4) float32: centre x, centre y, width, height, as parts of the image side.
        counts: (B,) bool.
    """
    weights = counts.float()
    number = weights.sum().clamp(min=1)
    l1 = (predicted - target).abs().sum(dim=1)  # (B,)
    giou = generalized_iou(_corners(predicted), _corners(target))  # (B,)
    return BoxLosses(l1=(l1 * weights).sum() / number, giou=((1 - giou) * weights).sum() / number)


def _corners(box: Tensor) -> Tensor:
    """(B, 4) centre and size -> (B, 4) left, top, right, bottom."""
    centre, half = box[:, :2], box[:, 2:] / 2
    return torch.cat([centre - half, centre + half], dim=1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU (arXiv 1902.09630) of row i of `a` and row i of `b` -> (B,) in [-1, 1].

    Args:
        a, b: (B, 4): left, top, right, bottom. Where the union has no area, the IoU is 0.
    """
    smallest = torch.finfo(a.dtype).tiny

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(dim=1)  # (B,)

    overlap = area(torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:]))
    union = area(a[:, :2], a[:, 2:]) + area(b[:, :2], b[:, 2:]) - overlap
    hull = area(torch.minimum(a[:, :2], b[:, :2]), torch.maximum(a[:, 2:], b[:, 2:]))
    return overlap / union.clamp(min=smallest) - (hull - union) / hull.clamp(min=smallest)
