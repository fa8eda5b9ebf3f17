"""Text encoder and fusion encoder: the lower and upper layers of one XLM-R-shaped stack (paper section 3.1).

Dimension letters: S texts, L tokens, H width. Post-norm transformer layers, exact GELU, LayerNorm eps 1e-5.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cclm.config.model import TextConfig
from cclm.model.attention import Context, CrossAttention, SelfAttention
from cclm.sequences import AnySequences, PackedSequences, Sequences


class Embeddings(nn.Module):
    """Word, position and token-type embeddings, LayerNorm, dropout.

    Positions count from 0 (not XLM-R's 2 and up), and the token type is always 0, both as published.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_positions, config.hidden_size)
        self.token_type = nn.Embedding(1, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=1e-5)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: AnySequences, positions: Tensor | None = None) -> AnySequences:
        """Token ids (S, L) -> states (S, L, H). `positions` (S, L) int64: where they do not count up from 0."""
        positions = tokens.positions() if positions is None else positions
        summed = self.word(tokens.data) + self.position(positions) + self.token_type.weight[0]
        return tokens.with_data(self.dropout(self.norm(summed)))


class FeedForward(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.hidden_size, eps=1e-5)

    def forward(self, states: AnySequences) -> AnySequences:
        return states.with_data(self.positions(states.data))

    def positions(self, states: Tensor) -> Tensor:
        """(..., H) -> (..., H)."""
        return self.norm(self.dropout(self.down(F.gelu(self.up(states)))) + states)


class TextLayer(nn.Module):
    """Self-attention and feed-forward."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        sizes = (config.hidden_size, config.num_heads, config.dropout, config.attention_dropout)
        self.self_attention = SelfAttention(*sizes)
        self.feed_forward = FeedForward(config)

    def forward(self, states: AnySequences) -> AnySequences:
        return self.feed_forward(self.self_attention(states))


class FusionLayer(nn.Module):
    """Self-attention, cross-attention to the other view, feed-forward. Without a context the middle part is skipped."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        sizes = (config.hidden_size, config.num_heads, config.dropout, config.attention_dropout)
        self.self_attention = SelfAttention(*sizes)
        self.cross_attention = CrossAttention(*sizes)
        self.feed_forward = FeedForward(config)

    def forward(
        self, states: AnySequences, context: Context | None, *, causal: bool = False, mask: Tensor | None = None
    ) -> AnySequences:
        """(S, L, H) -> (S, L, H); `causal` and `mask` as in SelfAttention."""
        return self.seeing(self.self_attention(states, causal=causal, mask=mask), context)

    def seeing(self, states: AnySequences, context: Context | None) -> AnySequences:
        """What follows self-attention."""
        if context is not None:
            states = self.cross_attention(states, context)
        return self.feed_forward(states)

    def first(self, states: AnySequences, context: Context) -> Tensor:
        """What `forward` gives at position 0, and nothing else: (S, H)."""
        alone = Sequences.full(self.self_attention.first(states)[:, None])  # (S, 1, H)
        return self.feed_forward.positions(self.cross_attention(alone, context).first())


class TextEncoder(nn.Module):
    """Token ids -> contextual states, text alone."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config.num_text_layers))
        initialize(self, config.initializer_range)

    def forward(self, tokens: AnySequences) -> AnySequences:
        """Token ids (S, L) -> states (S, L, H)."""
        states = self.embeddings(tokens)
        for layer in self.layers:
            states = layer(states)
        return states


class FusionEncoder(nn.Module):
    """States of texts -> states that know the other view: an image, a region, or a text in another language."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        num_layers = config.num_layers - config.num_text_layers
        self.layers = nn.ModuleList(FusionLayer(config) for _ in range(num_layers))
        initialize(self, config.initializer_range)

    def forward(self, texts: AnySequences, context: Context | None) -> AnySequences:
        """(S, L, H) -> (S, L, H). `context` None: these layers as a plain text encoder (TLM)."""
        for layer in self.layers:
            texts = layer(texts, context)
        return texts

    def first(self, texts: AnySequences, context: Context) -> Tensor:
        """What `forward` gives at position 0, (S, H): the last layer computes nothing else."""
        for layer in self.layers[:-1]:
            texts = layer(texts, context)
        return self.layers[-1].first(texts, context)

    def prepare(self, texts: PackedSequences) -> PackedSequences:
        """What of `first` does not depend on the context, the first layer's self-attention: once a text, whatever it
        is then put together with. With one layer, position 0 alone is left of each text."""
        first = self.layers[0].self_attention
        if len(self.layers) == 1:
            return PackedSequences.of(first.first(texts), torch.ones_like(texts.lengths))
        return first(texts)

    def first_of_prepared(self, prepared: PackedSequences, context: Context) -> Tensor:
        """`first`, (S, H), of texts that went through `prepare`."""
        states: AnySequences = self.layers[0].seeing(prepared, context)
        for layer in self.layers[1:-1]:
            states = layer(states, context)
        return states.first() if len(self.layers) == 1 else self.layers[-1].first(states, context)


class TokenHead(nn.Module):
    """Scores over the vocabulary from states, by the (tied) word embeddings."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=1e-5)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        initialize(self, config.initializer_range)

    def forward(self, states: Tensor, word_embeddings: Tensor) -> Tensor:
        """States (M, H) and word embeddings (V, H) -> logits (M, V)."""
        return F.linear(self.hidden(states), word_embeddings, self.bias)

    def hidden(self, states: Tensor) -> Tensor:
        """States (M, H) -> what is compared with word embeddings, (M, H)."""
        return self.norm(F.gelu(self.transform(states)))


def initialize(module: nn.Module, standard_deviation: float) -> None:
    """Fresh weights: normal(0, standard_deviation) for matrices and embeddings, 0 for biases (as in BERT)."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=standard_deviation)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)
