"""Multi-head attention on batches of sequences: the only place that looks inside `Sequences`.

Dimension letters: S texts, L positions of a text, N sequences attended to, K positions of such a sequence, H width,
A heads, D = H / A.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from cclm.sequences import Sequences


@dataclass(frozen=True)
class Context:
    """The other view: what texts attend to, and which of it each text attends to.

    Several texts may look at one image; its keys and values are then computed once.
    """

    states: Sequences
    """N sequences of states (N, K, H)."""
    rows: Tensor | None = None
    """(S,) int64: the sequence of each text; None: text i looks at sequence i."""


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

    def _attend(
        self, texts: Sequences, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool = False
    ) -> Sequences:
        """Texts (S, L, H) over keys and values (S, A, K, D), then output projection, residual, LayerNorm.

        `mask` is (S, K) bool, True where a key may be seen, or None.
        """
        query = self._heads(self.query(texts.padded()))  # (S, A, L, D)
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if mask is None else mask[:, None, None, :],  # (S, 1, 1, K)
            dropout_p=self.attention_dropout if self.training else 0.0,
            is_causal=causal,
        )
        merged = attended.transpose(1, 2).flatten(2)  # (S, L, H)
        return texts.with_data(self.norm(self.dropout(self.output(merged)) + texts.data))


class SelfAttention(_Attention):
    """Each position attends to the visible positions of its own sequence; with `causal`, to earlier ones only."""

    def forward(self, texts: Sequences, *, causal: bool = False) -> Sequences:
        states = texts.padded()
        key, value = self._heads(self.key(states)), self._heads(self.value(states))  # (S, A, L, D) each
        # Padding lies on the right, so a causal position never sees any.
        mask = None if causal else texts.padding_mask()
        return self._attend(texts, key, value, mask, causal=causal)


class CrossAttention(_Attention):
    """Each position of a text attends to the visible positions of the text's context."""

    def forward(self, texts: Sequences, context: Context) -> Sequences:
        states = context.states.padded()
        key, value = self._heads(self.key(states)), self._heads(self.value(states))  # (N, A, K, D) each
        mask = context.states.padding_mask()
        if context.rows is not None:
            key, value = key[context.rows], value[context.rows]  # (S, A, K, D) each
            mask = None if mask is None else mask[context.rows]  # (S, K)
        return self._attend(texts, key, value, mask)
