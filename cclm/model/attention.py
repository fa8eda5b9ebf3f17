"""Multi-head attention on batches of sequences: the only place that looks inside `Sequences`.

Dimension letters: S texts, L positions of a text (M of all texts, packed), N sequences attended to, K positions of
such a sequence, H width, A heads, D = H / A.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from cclm.sequences import AnySequences, Sequences


@dataclass(frozen=True)
class Context:
    """The other view: what texts attend to, and which of it each text attends to.

    Several texts may look at one image; its keys and values are then computed once. Where all texts look at the only
    image there is (N = 1), they are not even repeated.
    """

    states: Sequences
    """N sequences of states (N, K, H)."""
    rows: Tensor | None = None
    """(S,) int64: the sequence of each text; None: text i looks at sequence i, or all at the only one."""


class _Attention(nn.Module):
    """Projections, dropout, residual and post-norm that self- and cross-attention have in common (BERT layout)."""

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

    def _heads(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (S, A, L, D)

    def _project(self, texts: AnySequences, projection: nn.Linear) -> Tensor:
        """Projected before padding, so that packed texts cost nothing more: (S, A, L, D)."""
        return self._heads(texts.with_data(projection(texts.data)).padded())

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool = False
    ) -> Tensor:
        """Queries (S, A, L, D) over keys and values (S, A, K, D) -> (S, L, H).

        `mask` is bool and broadcasts to (S, A, L, K), True where a key may be seen; None: everywhere.
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
        """Output projection, residual, LayerNorm: (..., H) twice -> (..., H)."""
        return self.norm(self.dropout(self.output(attended)) + states)


class SelfAttention(_Attention):
    """Each position attends to the visible positions of its own sequence; with `causal`, to earlier ones only."""

    def forward(self, texts: AnySequences, *, causal: bool = False, mask: Tensor | None = None) -> AnySequences:
        """States (S, L, H) -> (S, L, H). `mask` (S, L, L) bool replaces the rule: row l sees its True columns."""
        query, key, value = (self._project(texts, part) for part in (self.query, self.key, self.value))
        if mask is not None:
            attended = self._attend(query, key, value, mask[:, None])  # (S, 1, L, L)
        elif causal:  # padding lies on the right, so a causal position never sees any
            attended = self._attend(query, key, value, None, causal=True)
        else:
            attended = self._attend(query, key, value, _of_keys(texts.padding_mask()))
        return texts.with_data(self._finish(texts.from_padded(attended), texts.data))

    def first(self, texts: AnySequences) -> Tensor:
        """What `forward` gives at position 0, and nothing else: (S, H)."""
        key, value = self._project(texts, self.key), self._project(texts, self.value)
        first = texts.first()
        query = self._heads(self.query(first)[:, None])  # (S, A, 1, D)
        return self._finish(self._attend(query, key, value, _of_keys(texts.padding_mask()))[:, 0], first)


class CrossAttention(_Attention):
    """Each position of a text attends to the visible positions of the text's context."""

    def forward(self, texts: AnySequences, context: Context) -> AnySequences:
        key, value = (self._heads(part(context.states.padded())) for part in (self.key, self.value))  # (N, A, K, D)
        mask = context.states.padding_mask()
        if len(key) == 1:
            # All positions of all texts are queries of one context: nothing is repeated, and padding is not computed.
            query = self._heads(self.query(texts.data).flatten(0, -2)[None])  # (1, A, all positions, D)
            attended = self._attend(query, key, value, _of_keys(mask))[0]
            return texts.with_data(self._finish(attended.view(texts.data.shape), texts.data))
        if context.rows is not None:
            key, value = key[context.rows], value[context.rows]  # (S, A, K, D) each
            mask = None if mask is None else mask[context.rows]  # (S, K)
        query = self._project(texts, self.query)  # (S, A, L, D)
        attended = self._attend(query, key, value, _of_keys(mask))
        return texts.with_data(self._finish(texts.from_padded(attended), texts.data))


def _of_keys(mask: Tensor | None) -> Tensor | None:
    """(S, K) -> (S, 1, 1, K)."""
    return None if mask is None else mask[:, None, None, :]
