"""Multi-head attention on batches of sequences. This is the only place that may need their padded layout.

Packed sequences on a CPU need no padding here, either (`cclm.model.packed_attention`). The layers have BERT's layout
(arXiv 1810.04805); see docs/method.md, section Model.

Dimension letters: S texts, L positions of a text (M of all texts, packed), N sequences that texts attend to, K
positions of such a sequence, H width, A heads, D = H / A width of a head. States are float32, bfloat16 under autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cclm.model.dropout import Dropout
from cclm.model.packed_attention import AttentionPlan, Unit, packed_attention
from cclm.sequences import AnySequences, PackedSequences, Sequences

SequencesT = TypeVar("SequencesT", Sequences, PackedSequences)
"""Layers give sequences back in the layout, padded or packed, in which they came."""


@dataclass(frozen=True)
class Context:
    """The other view: the sequences that texts attend to, and which of them each text attends to.

    Several texts may attend to one image. Its keys and values are then computed once. Where all texts attend to a
    single image (N = 1), its keys and values are not even repeated.
    """

    states: AnySequences
    """States (N, K, H)."""
    rows: Tensor | None = None
    """(S,) int64: the sequence that each text attends to. None: text i attends to sequence i; with N = 1, all texts
    attend to the only one."""
    cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What layers derive from `states` and `rows` once for all of them."""

    def packed(self) -> PackedSequences:
        """The states without padding, and without positions that nothing may attend to."""
        if isinstance(self.states, PackedSequences):
            return self.states
        if "packed" not in self.cache:
            self.cache["packed"] = PackedSequences.pack(self.states)
        packed: PackedSequences = self.cache["packed"]
        return packed

    def units(self, texts: int) -> list[Unit]:
        """For each sequence that is attended to, the texts that attend to it. There are `texts` of them."""
        if self.rows is not None:
            rows: Sequence[int] = self.rows.tolist()
        else:
            rows = [0] * texts if len(self.states) == 1 else range(texts)
        attending: dict[int, list[int]] = {}
        for text, row in enumerate(rows):
            attending.setdefault(row, []).append(text)
        return [Unit(tuple(of_row), row) for row, of_row in attending.items()]


class _Attention(nn.Module):
    """What self- and cross-attention share: projections, dropout, residual connection and LayerNorm after it."""

    unpadded: bool = True
    """Whether packed texts on a CPU are attended to without padding (`cclm.model.fast_paths`)."""
    cheap_dropout: bool = True
    """Whether attention to packed texts uses the cheap dropout of `cclm.model.dropout`."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(hidden_size, eps=1e-5)

    def _split_heads(self, states: Tensor) -> Tensor:
        """(S, L, H) -> (S, A, L, D)."""
        return torch.unflatten(states, -1, (self.num_heads, -1)).transpose(1, 2)

    def _project(self, texts: AnySequences, projection: nn.Linear) -> Tensor:
        """States (S, L, H) -> queries, keys or values (S, A, L, D). Packed texts are padded after the projection."""
        return self._split_heads(texts.with_data(projection(texts.data)).padded())

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool = False
    ) -> Tensor:
        """Queries (S, A, L, D) over keys and values (S, A, K, D) -> (S, L, H).

        Args:
            mask: bool, broadcasts to (S, A, L, K); True where a query may see a key. None: every query sees every key.
            causal: query l sees keys 0 .. l.
        """
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.attention_dropout if self.training else 0.0,
            is_causal=causal,
        )
        return attended.transpose(1, 2).flatten(2)  # (S, L, H)

    def _finish(self, attended: Tensor, states: Tensor) -> Tensor:
        """Output projection, residual connection and LayerNorm: (..., H) twice -> (..., H)."""
        finished: Tensor = self.norm(self.dropout.added(self.output(attended), states))
        return finished

    def _goes_unpadded(self, texts: AnySequences) -> bool:
        return self.unpadded and isinstance(texts, PackedSequences) and texts.device.type == "cpu"

    def _attend_packed(self, query: Tensor, others: PackedSequences, plan: AttentionPlan) -> Tensor:
        """Queries (M, H) over the states of `others` -> (M, H), as the plan says."""
        key, value = self.key(others.data), self.value(others.data)
        dropout = self.attention_dropout if self.training else 0.0
        return packed_attention(query, key, value, plan, dropout, cheap=self.cheap_dropout)


class SelfAttention(_Attention):
    """Each position attends to the visible positions of its own sequence."""

    def forward(self, texts: SequencesT, *, causal: bool = False, mask: Tensor | None = None) -> SequencesT:
        """States (S, L, H) -> (S, L, H).

        Args:
            causal: each position sees itself and earlier positions only.
            mask: (S, L, L) bool, in place of both rules: position l sees the columns that are True in row l.
        """
        if isinstance(texts, PackedSequences) and self._goes_unpadded(texts) and mask is None and not causal:
            attended = self._attend_packed(self.query(texts.data), texts, self._plan(texts, texts))
            return texts.with_data(self._finish(attended, texts.data))
        query, key, value = (self._project(texts, part) for part in (self.query, self.key, self.value))
        if mask is not None:
            attended = self._attend(query, key, value, mask[:, None])  # (S, 1, L, L)
        elif causal:  # padding is on the right, so a causal position never sees it
            attended = self._attend(query, key, value, None, causal=True)
        else:
            attended = self._attend(query, key, value, _over_keys(texts.padding_mask()))
        return texts.with_data(self._finish(texts.from_padded(attended), texts.data))

    def forward_first(self, texts: AnySequences) -> Tensor:
        """The result of `forward` at position 0 alone: states (S, L, H) -> (S, H)."""
        if isinstance(texts, PackedSequences):
            return self.forward_at(texts, texts.first_positions()).data
        key, value = self._project(texts, self.key), self._project(texts, self.value)
        first = texts.first()
        query = self._split_heads(self.query(first)[:, None])  # (S, A, 1, D)
        return self._finish(self._attend(query, key, value, _over_keys(texts.padding_mask()))[:, 0], first)

    def forward_at(self, texts: PackedSequences, positions: PackedSequences) -> PackedSequences:
        """The result of `forward` at some positions alone.

        Args:
            positions: as many sequences as texts, each of which may be empty: int64, places in `texts.data`.
        """
        states = texts.data.index_select(0, positions.data)
        if self._goes_unpadded(texts):
            attended = self._attend_packed(self.query(states), texts, self._plan(positions, texts))
        else:
            query = self._project(positions.with_data(states), self.query)
            key, value = self._project(texts, self.key), self._project(texts, self.value)
            attended = positions.from_padded(self._attend(query, key, value, _over_keys(texts.padding_mask())))
        return positions.with_data(self._finish(attended, states))

    def _plan(self, queries: PackedSequences, texts: PackedSequences) -> AttentionPlan:
        """Queries attend to their own text."""
        name = f"self-attention, {self.num_heads} heads"
        if name not in queries.cache:
            units = [Unit((text,), text) for text in range(len(texts))]
            queries.cache[name] = AttentionPlan.build(
                queries.lengths.tolist(), texts.lengths.tolist(), units, self.num_heads
            )
        plan: AttentionPlan = queries.cache[name]
        return plan


class CrossAttention(_Attention):
    """Each position of a text attends to the visible positions of the text's context."""

    def forward(self, texts: SequencesT, context: Context) -> SequencesT:
        """States (S, L, H) -> (S, L, H)."""
        if isinstance(texts, PackedSequences) and self._goes_unpadded(texts):
            attended = self._attend_packed(self.query(texts.data), context.packed(), self._plan(texts, context))
            return texts.with_data(self._finish(attended, texts.data))
        states = context.states.padded()  # (N, K, H)
        key, value = (self._split_heads(part(states)) for part in (self.key, self.value))  # (N, A, K, D) each
        mask = context.states.padding_mask()
        if len(key) == 1:
            # All positions of all texts become queries of one sequence. Nothing is repeated, and padding costs nothing.
            query = self._split_heads(self.query(texts.data).flatten(0, -2)[None])  # (1, A, all positions, D)
            attended = self._attend(query, key, value, _over_keys(mask))[0]
            return texts.with_data(self._finish(attended.view(texts.data.shape), texts.data))
        if context.rows is not None:
            key, value = key[context.rows], value[context.rows]  # (S, A, K, D) each
            mask = None if mask is None else mask[context.rows]  # (S, K)
        query = self._project(texts, self.query)  # (S, A, L, D)
        attended = self._attend(query, key, value, _over_keys(mask))
        return texts.with_data(self._finish(texts.from_padded(attended), texts.data))

    def _plan(self, texts: PackedSequences, context: Context) -> AttentionPlan:
        name = f"cross-attention, {self.num_heads} heads"
        if context.cache.get(name, (None, None))[0] is not texts.cache:
            plan = AttentionPlan.build(
                texts.lengths.tolist(), context.packed().lengths.tolist(), context.units(len(texts)), self.num_heads
            )
            context.cache[name] = (texts.cache, plan)
        found: AttentionPlan = context.cache[name][1]
        return found


def _over_keys(mask: Tensor | None) -> Tensor | None:
    """A mask of keys (S, K) bool -> (S, 1, 1, K), for all heads and queries."""
    return None if mask is None else mask[:, None, None, :]
