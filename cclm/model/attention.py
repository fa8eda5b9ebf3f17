"""Multi-head attention on batches of sequences. This is the only place that needs their padded layout.

The layers have BERT's layout (arXiv 1810.04805); see docs/method.md, section Model.

Dimension letters: S texts, L positions of a text (M of all texts, packed), N sequences that texts attend to, K
positions of such a sequence, H width, A heads, D = H / A width of a head. States are float32, bfloat16 under autocast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cclm.sequences import AnySequences, PackedSequences, Sequences

SequencesT = TypeVar("SequencesT", Sequences, PackedSequences)
"""Layers give sequences back in the layout, padded or packed, in which they came."""


@dataclass(frozen=True)
class Context:
    """The other view: the sequences that texts attend to, and which of them each text attends to.

    Several texts may attend to one image. Its keys and values are then computed once. Where all texts attend to a
    single image (N = 1), its keys and values are not even repeated.
    """

    states: Sequences
    """States (N, K, H)."""
    rows: Tensor | None = None
    """(S,) int64: the sequence that each text attends to. None: text i attends to sequence i; with N = 1, all texts
    attend to the only one."""


class _Attention(nn.Module):
    """What self- and cross-attention share: projections, dropout, residual connection and LayerNorm after it."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
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
        finished: Tensor = self.norm(self.dropout(self.output(attended)) + states)
        return finished


class SelfAttention(_Attention):
    """Each position attends to the visible positions of its own sequence."""

    def forward(self, texts: SequencesT, *, causal: bool = False, mask: Tensor | None = None) -> SequencesT:
        """States (S, L, H) -> (S, L, H).

        Args:
            causal: each position sees itself and earlier positions only.
            mask: (S, L, L) bool, in place of both rules: position l sees the columns that are True in row l.
        """
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
        key, value = self._project(texts, self.key), self._project(texts, self.value)
        first = texts.first()
        query = self._split_heads(self.query(first)[:, None])  # (S, A, 1, D)
        return self._finish(self._attend(query, key, value, _over_keys(texts.padding_mask()))[:, 0], first)


class CrossAttention(_Attention):
    """Each position of a text attends to the visible positions of the text's context."""

    def forward(self, texts: SequencesT, context: Context) -> SequencesT:
        """States (S, L, H) -> (S, L, H)."""
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


def _over_keys(mask: Tensor | None) -> Tensor | None:
    """A mask of keys (S, K) bool -> (S, 1, 1, K), for all heads and queries."""
    return None if mask is None else mask[:, None, None, :]
