"""Attention over packed sequences on a CPU: no padding is computed, and nothing is repeated.

torch's fused attention on a CPU wants padded sequences, and knows no dropout; with dropout torch takes three times as
long. Here, attention is cut into *units*: the queries that attend to one sequence of keys. The queries of a unit may
come from several texts; keys and values of an image are then used by all its texts without being copied. Units of equal
sizes are one batch of matrix products.

Dimension letters: Q queries of all sequences, K keys of all sequences, A heads, D width of a head, H = A * D.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cclm.model.dropout import draws_at, keep_factors


class Unit(NamedTuple):
    """Queries that attend to one sequence of keys."""

    queries: tuple[int, ...]
    """Numbers of the sequences of queries."""
    keys: int
    """Number of the sequence of keys."""


class _Group(NamedTuple):
    """Units of equal sizes. Their queries and keys lie behind each other: unit by unit, head by head."""

    batch: int
    """Units times A."""
    queries: int
    """Queries of a unit."""
    keys: int
    """Keys of a unit."""


class AttentionPlan(NamedTuple):
    """How attention is cut. It depends on lengths alone, so all layers share it."""

    heads: int
    """A"""
    queries: Tensor
    """(Q * A,) int64: rows of (Q * A, D), in the order of the groups."""
    keys: Tensor
    """(rows of keys that some query attends to,) int64: rows of (K * A, D), in the order of the groups."""
    queries_back: Tensor
    """(Q * A,) int64: where each row of (Q * A, D) is in the order of the groups."""
    keys_back: Tensor
    """(K * A,) int64: the same for keys; one behind the last place for keys to which no query attends."""
    groups: tuple[_Group, ...]

    @staticmethod
    def build(
        query_lengths: Sequence[int], key_lengths: Sequence[int], units: Sequence[Unit], heads: int
    ) -> AttentionPlan:
        """A plan.

        Args:
            query_lengths, key_lengths: lengths of all sequences, which lie behind each other.
            units: each sequence of queries is in one of them.
        """
        query_starts, key_starts = _starts(query_lengths), _starts(key_lengths)
        by_size: dict[tuple[int, int], list[Unit]] = {}
        for unit in units:
            size = sum(query_lengths[sequence] for sequence in unit.queries)
            if size:
                by_size.setdefault((size, key_lengths[unit.keys]), []).append(unit)
        queries, keys, groups = [], [], []
        for (size, key_size), members in sorted(by_size.items()):
            places = [
                place
                for unit in members
                for sequence in unit.queries
                for place in range(query_starts[sequence], query_starts[sequence] + query_lengths[sequence])
            ]
            queries.append(_by_head(torch.tensor(places).view(-1, size), heads))
            first = torch.tensor([key_starts[unit.keys] for unit in members])
            keys.append(_by_head(first[:, None] + torch.arange(key_size), heads))
            groups.append(_Group(len(members) * heads, size, key_size))
        nothing = torch.zeros(0, dtype=torch.int64)
        query_rows, key_rows = torch.cat([nothing, *queries]), torch.cat([nothing, *keys])
        return AttentionPlan(
            heads,
            query_rows,
            key_rows,
            _inverse(query_rows, sum(query_lengths) * heads),
            _inverse(key_rows, sum(key_lengths) * heads),
            tuple(groups),
        )


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, dropout: float, *, cheap: bool = True
) -> Tensor:
    """Queries (Q, H) over keys and values (K, H) -> (Q, H), all on the CPU.

    Computes in float32: on a CPU, matrices as small as these are no faster in bfloat16, and a softmax is slower.

    Args:
        dropout: of the attention weights.
        cheap: as in `keep_factors`.
    """
    factors = None
    if draws_at(dropout):
        count = sum(group.batch * group.queries * group.keys for group in plan.groups)
        factors = keep_factors((count,), dropout, torch.float32, cheap=cheap)
    attended: Tensor = _PackedAttention.apply(query, key, value, factors, plan)
    return attended


class _PackedAttention(torch.autograd.Function):
    """Scores, softmax, dropout and weighted mean of each group; the backward pass is written out."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, factors: Tensor | None, plan: AttentionPlan
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            width = query.shape[1] // plan.heads
            queries, keys, values = (
                part.reshape(-1, width).index_select(0, rows).float()
                for part, rows in ((query, plan.queries), (key, plan.keys), (value, plan.keys))
            )
            result = torch.empty_like(queries)
            weights = []
            for group, q, k, v, out, factor in _cut(plan, queries, keys, values, result, factors):
                scores = q.new_empty(group.batch, group.queries, group.keys)
                torch.baddbmm(scores, q, k.transpose(1, 2), beta=0, alpha=width**-0.5, out=scores)
                weight = scores.softmax(dim=-1)
                weights.append(weight)
                torch.bmm(weight if factor is None else weight * factor, v, out=out)
            ctx.plan, ctx.dtypes = plan, (query.dtype, key.dtype, value.dtype)
            ctx.save_for_backward(queries, keys, values, factors, *weights)
            return _rows_back(result, plan.queries_back, query.dtype).view(query.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        plan: AttentionPlan = ctx.plan
        queries, keys, values, factors, *weights = ctx.saved_tensors
        width = queries.shape[1]
        result = gradient.reshape(-1, width).index_select(0, plan.queries).float()
        of_queries, of_keys, of_values = torch.empty_like(queries), torch.empty_like(keys), torch.empty_like(values)
        pieces = _cut(plan, queries, keys, values, result, factors)
        targets = _cut(plan, of_queries, of_keys, of_values, result, None)
        for weight, (_, q, k, v, out, factor), (_, to_q, to_k, to_v, _, _) in zip(
            weights, pieces, targets, strict=True
        ):
            dropped = weight if factor is None else weight * factor
            torch.bmm(dropped.transpose(1, 2), out, out=to_v)
            of_weight = torch.bmm(out, v.transpose(1, 2))
            if factor is not None:
                of_weight.mul_(factor)
            of_scores = torch._softmax_backward_data(of_weight, weight, -1, weight.dtype)
            torch.baddbmm(to_q, of_scores, k, beta=0, alpha=width**-0.5, out=to_q)
            torch.baddbmm(to_k, of_scores.transpose(1, 2), q, beta=0, alpha=width**-0.5, out=to_k)
        backs = (plan.queries_back, plan.keys_back, plan.keys_back)
        found = (
            _rows_back(each, back, dtype).view(-1, gradient.shape[1])
            for each, back, dtype in zip((of_queries, of_keys, of_values), backs, ctx.dtypes, strict=True)
        )
        return (*found, None, None)  # type: ignore[return-value]  # three tensors, from a generator


def _cut(
    plan: AttentionPlan, queries: Tensor, keys: Tensor, values: Tensor, results: Tensor, factors: Tensor | None
) -> list[tuple[_Group, Tensor, Tensor, Tensor, Tensor, Tensor | None]]:
    """For each group: its queries, keys, values, results and factors of dropout, (batch, ..., D) each."""
    pieces, query, key, weight = [], 0, 0, 0
    for group in plan.groups:
        query_rows, key_rows = (
            slice(query, query + group.batch * group.queries),
            slice(key, key + group.batch * group.keys),
        )
        count = group.batch * group.queries * group.keys
        shape = (group.batch, -1, queries.shape[1])
        factor = None
        if factors is not None:
            factor = factors[weight : weight + count].view(group.batch, group.queries, group.keys)
        q, out = queries[query_rows].view(shape), results[query_rows].view(shape)
        k, v = keys[key_rows].view(shape), values[key_rows].view(shape)
        pieces.append((group, q, k, v, out, factor))
        query, key, weight = query_rows.stop, key_rows.stop, weight + count
    return pieces


def _rows_back(rows: Tensor, back: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows in the order of the groups -> rows in their own order; zeros for those that are in no group."""
    if len(back) > len(rows):
        rows = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
    return rows.to(dtype).index_select(0, back)


def _by_head(places: Tensor, heads: int) -> Tensor:
    """Places (units, size) in (..., H) -> rows of (... * A, D): unit by unit, head by head."""
    return (places[:, None, :] * heads + torch.arange(heads)[:, None]).flatten()


def _inverse(rows: Tensor, count: int) -> Tensor:
    back = torch.full((count,), len(rows))
    back[rows] = torch.arange(len(rows))
    return back


def _starts(lengths: Sequence[int]) -> list[int]:
    starts, total = [], 0
    for length in lengths:
        starts.append(total)
        total += length
    return starts
