"""Answer decoder: writes an answer token by token while looking at a question that has seen the image.

Dimension letters: A answers, L tokens of the longest answer, R states, E tokens asked for, H width, V vocabulary.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cclm.model.attention import Context
from cclm.model.cclm import CCLM
from cclm.sequences import AnySequences, Sequences


class AnswerDecoder(nn.Module):
    """Causal layers over answers with cross-attention to questions, initialised from the pre-trained fusion encoder.

    Embeddings (positions from 0) and token head are copies of their own, tied to each other.
    """

    def __init__(self, pretrained: CCLM, num_layers: int) -> None:
        super().__init__()
        layers = pretrained.encoders.fusion_encoder.layers
        if num_layers > len(layers):
            raise ValueError(
                f"the decoder has {num_layers} layers, the fusion encoder to start from only {len(layers)}"
            )
        self.embeddings = copy.deepcopy(pretrained.encoders.text_encoder.embeddings)
        self.layers = nn.ModuleList(copy.deepcopy(layer) for layer in layers[:num_layers])
        self.token_head = copy.deepcopy(pretrained.token_head)

    def forward(self, answers: Sequences, questions: Context) -> Tensor:
        """Token ids (A, L) -> logits (A, L, V) of the token that follows each position."""
        return self.logits(self.states(answers, questions).padded())

    def states(
        self, answers: AnySequences, questions: Context, *, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> AnySequences:
        """Token ids (A, L) -> states (A, L, H).

        Without `mask` a position sees all earlier ones. With it, (A, L, L) bool, position l sees those that are True in
        row l; `positions`, int64 like the token ids, then says how far each is from the start.
        """
        states = self.embeddings(answers, positions)
        for layer in self.layers:
            states = layer(states, questions, causal=True, mask=mask)
        return states

    def logits(self, states: Tensor) -> Tensor:
        """(..., H) -> (..., V)."""
        return self.token_head(states, self.embeddings.word.weight)

    def log_probabilities(self, states: Tensor, rows: Tensor, tokens: Tensor, among: Tensor | None = None) -> Tensor:
        """Log probability of some tokens after some states, without all logits in memory at once.

        Args:
            states: (R, H).
            rows, tokens: (E,) int64: which token after which state.
            among: int64, ascending: as if the vocabulary were these tokens, which is never less than the truth.

        Returns:
            (E,) float32.
        """
        hidden = self.token_head.hidden(states)  # (R, H)
        words, bias = self.embeddings.word.weight, self.token_head.bias
        if among is not None:
            words, bias, tokens = words[among], bias[among], torch.searchsorted(among, tokens)
        # On a CPU a block stays in its cache; on a GPU it is as large as keeps it busy.
        size = max(1, (1 << 19 if states.device.type == "cpu" else 1 << 26) // max(1, len(states)))
        total = hidden.new_full((len(states),), -torch.inf, dtype=torch.float32)
        wanted = hidden.new_zeros(len(tokens), dtype=torch.float32)
        for start in range(0, len(words), size):
            logits = F.linear(hidden, words[start : start + size], bias[start : start + size]).float()  # (R, block)
            total = torch.logaddexp(total, logits.logsumexp(dim=1))
            mine = ((tokens >= start) & (tokens < start + size)).nonzero()[:, 0]
            wanted[mine] = logits[rows[mine], tokens[mine] - start]
        return wanted - total[rows]
