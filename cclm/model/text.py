"""Text encoder and fusion encoder: the lower and the upper layers of one stack in the shape of XLM-R.

Transformer layers with LayerNorm (eps 1e-5) after the residual connection, and exact GELU. Source: arXiv 2206.00621,
section 3.1; docs/method.md, section Model.

Dimension letters: S texts, L tokens, H width, M states, V vocabulary. Token ids are int64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cclm.config.model import TextConfig
from cclm.model.attention import Context, CrossAttention, SelfAttention, SequencesT
from cclm.model.dropout import Dropout
from cclm.model.layers import LayerList
from cclm.sequences import AnySequences, PackedSequences, Sequences


class Embeddings(nn.Module):
    """Sum of word, position and token-type embeddings, then LayerNorm and dropout.

    As published, positions count from 0 (in XLM-R from 2), and the token type is always 0.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_positions, config.hidden_size)
        self.token_type = nn.Embedding(1, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=1e-5)
        self.dropout = Dropout(config.dropout)

    def forward(self, tokens: SequencesT, positions: Tensor | None = None) -> SequencesT:
        """Token ids (S, L) -> states (S, L, H). `positions` (S, L) int64 are those of the tokens; None: 0, 1, 2 ..."""
        positions = tokens.positions() if positions is None else positions
        summed = self.word(tokens.data) + self.position(positions) + self.token_type.weight[0]
        return tokens.with_data(self.dropout(self.norm(summed)))


class FeedForward(nn.Module):
    """Two linear layers with GELU between them, dropout, residual connection and LayerNorm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.hidden_size, eps=1e-5)

    def forward(self, states: SequencesT) -> SequencesT:
        """States (S, L, H) -> (S, L, H)."""
        return states.with_data(self.transform(states.data))

    def transform(self, states: Tensor) -> Tensor:
        """States of any positions, (..., H) -> (..., H)."""
        transformed: Tensor = self.norm(self.dropout.added(self.down(F.gelu(self.up(states))), states))
        return transformed


class TextLayer(nn.Module):
    """Self-attention and feed-forward."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        sizes = (config.hidden_size, config.num_heads, config.dropout, config.attention_dropout)
        self.self_attention = SelfAttention(*sizes)
        self.feed_forward = FeedForward(config)

    def forward(self, states: SequencesT) -> SequencesT:
        """States (S, L, H) -> (S, L, H)."""
        transformed: SequencesT = self.feed_forward(self.self_attention(states))
        return transformed


class FusionLayer(nn.Module):
    """Self-attention, cross-attention to the other view, and feed-forward.

    Without a context, cross-attention is left out.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        sizes = (config.hidden_size, config.num_heads, config.dropout, config.attention_dropout)
        self.self_attention = SelfAttention(*sizes)
        self.cross_attention = CrossAttention(*sizes)
        self.feed_forward = FeedForward(config)

    def forward(
        self, states: SequencesT, context: Context | None, *, causal: bool = False, mask: Tensor | None = None
    ) -> SequencesT:
        """States (S, L, H) -> (S, L, H); `causal` and `mask` as in SelfAttention."""
        attended: SequencesT = self.self_attention(states, causal=causal, mask=mask)
        return self.forward_after_self_attention(attended, context)

    def forward_after_self_attention(self, states: SequencesT, context: Context | None) -> SequencesT:
        """Cross-attention and feed-forward: states (S, L, H) -> (S, L, H)."""
        if context is not None:
            states = self.cross_attention(states, context)
        transformed: SequencesT = self.feed_forward(states)
        return transformed

    def forward_first(self, states: AnySequences, context: Context) -> Tensor:
        """The result of `forward` at position 0 alone: states (S, L, H) -> (S, H)."""
        if isinstance(states, PackedSequences):
            return self.forward_at(states, context, states.first_positions()).data
        alone = Sequences.full(self.self_attention.forward_first(states)[:, None])  # (S, 1, H)
        return self.feed_forward.transform(self.cross_attention(alone, context).first())

    def forward_at(
        self, states: PackedSequences, context: Context | None, positions: PackedSequences
    ) -> PackedSequences:
        """The result of `forward` at some positions alone; `positions` as in `SelfAttention.forward_at`."""
        return self.forward_after_self_attention(self.self_attention.forward_at(states, positions), context)


class TextEncoder(nn.Module):
    """Token ids -> contextual states of the text alone."""

    recomputes: bool = False
    """Whether layers are computed again in the backward pass (`cclm.model.fast_paths`)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.layers = LayerList(TextLayer(config) for _ in range(config.num_text_layers))
        initialize(self, config.initializer_range)

    def forward(self, tokens: SequencesT) -> SequencesT:
        """Token ids (S, L) -> states (S, L, H)."""
        states: SequencesT = self.embeddings(tokens)
        for layer in self.layers:
            states = _computed(layer, states, again=self.recomputes)
        return states


class FusionEncoder(nn.Module):
    """States of texts -> states that have attended to the other view: an image, a region, or a translation."""

    recomputes: bool = False
    """As in `TextEncoder`; the last layer is kept where it computes some positions alone."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        num_layers = config.num_layers - config.num_text_layers
        self.layers = LayerList(FusionLayer(config) for _ in range(num_layers))
        initialize(self, config.initializer_range)

    def forward(self, texts: SequencesT, context: Context | None) -> SequencesT:
        """States (S, L, H) -> (S, L, H). Without a context, the layers go on encoding the text alone (TLM)."""
        return self._through(self.layers, texts, context)

    def forward_first(self, texts: SequencesT, context: Context) -> Tensor:
        """The result of `forward` at position 0, (S, H). The last layer computes that position alone."""
        return self.layers[-1].forward_first(self._through(self.layers[:-1], texts, context), context)

    def forward_at(
        self, texts: PackedSequences, context: Context | None, positions: PackedSequences
    ) -> PackedSequences:
        """The result of `forward` at some positions. The last layer computes those alone.

        Args:
            positions: as in `SelfAttention.forward_at`.
        """
        return self.layers[-1].forward_at(self._through(self.layers[:-1], texts, context), context, positions)

    @property
    def can_prepare(self) -> bool:
        """Whether there is more than one layer, so that `prepare` leaves all positions to be read."""
        return len(self.layers) > 1

    def prepare(self, texts: PackedSequences) -> PackedSequences:
        """The part of `forward_first` that does not depend on the context: the self-attention of the first layer.

        A text that meets many contexts needs it once. If there is one layer only, the result holds position 0 alone.
        """
        self_attention = self.layers[0].self_attention
        if len(self.layers) == 1:
            return PackedSequences.of(self_attention.forward_first(texts), torch.ones_like(texts.lengths))
        prepared: PackedSequences = self_attention(texts)
        return prepared

    def forward_prepared(self, prepared: PackedSequences, context: Context) -> PackedSequences:
        """The rest of `forward`, for texts that went through `prepare`, which needs `can_prepare`."""
        states = self.layers[0].forward_after_self_attention(prepared, context)
        return self._through(self.layers[1:], states, context)

    def forward_at_prepared(
        self, prepared: PackedSequences, context: Context, positions: PackedSequences
    ) -> PackedSequences:
        """The rest of `forward_at`, for texts that went through `prepare`, which needs `can_prepare`."""
        states = self.layers[0].forward_after_self_attention(prepared, context)
        return self.layers[-1].forward_at(self._through(self.layers[1:-1], states, context), context, positions)

    def forward_first_prepared(self, prepared: PackedSequences, context: Context) -> Tensor:
        """The rest of `forward_first`, for texts that went through `prepare`: (S, H)."""
        states = self.layers[0].forward_after_self_attention(prepared, context)
        for layer in self.layers[1:-1]:
            states = layer(states, context)
        return states.first() if len(self.layers) == 1 else self.layers[-1].forward_first(states, context)

    def _through(self, layers: LayerList[FusionLayer], texts: SequencesT, context: Context | None) -> SequencesT:
        for layer in layers:
            texts = _computed(layer, texts, context, again=self.recomputes)
        return texts


def _computed(layer: nn.Module, states: SequencesT, *context: Context | None, again: bool) -> SequencesT:
    """The result of a layer.

    Args:
        again: keep its input alone for the backward pass, which computes the layer once more, with the same draws.
    """
    if not (again and layer.training and torch.is_grad_enabled()):
        result: SequencesT = layer(states, *context)
        return result

    # The tensor is an argument of its own: from it, torch knows the device whose random numbers are to be kept.
    def data(of: Tensor) -> Tensor:
        computed: Tensor = layer(states.with_data(of), *context).data
        return computed

    return states.with_data(checkpoint(data, states.data, use_reentrant=False))


class TokenHead(nn.Module):
    """Logits over the vocabulary from states. Its output matrix is that of the word embeddings."""

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
        """States (M, H) -> vectors (M, H) that are compared with the word embeddings."""
        hidden: Tensor = self.norm(F.gelu(self.transform(states)))
        return hidden


def initialize(module: nn.Module, standard_deviation: float) -> None:
    """Fresh weights as in BERT: normal(0, standard_deviation) for matrices and embeddings, 0 for biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=standard_deviation)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)
