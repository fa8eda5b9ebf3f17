"""Answer decoder: predicts an answer token by token, attending to a question that has attended to the image.

See docs/method.md, section Fine-tuning tasks.

Dimension letters: A answers, L tokens of the longest answer, R states, E tokens to be scored, H width, V vocabulary.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cclm.model.attention import Context, SequencesT
from cclm.model.cclm import CCLM
from cclm.model.layers import LayerList
from cclm.sequences import Sequences


class AnswerDecoder(nn.Module):
    """Causal layers over answers with cross-attention to questions, initialised from the pre-trained fusion encoder.

    Embeddings (positions count from 0) and token head are copies of the pre-trained ones and share word embeddings.
    """

    def __init__(self, pretrained: CCLM, num_layers: int) -> None:
        """Raises ValueError if the fusion encoder has fewer layers."""
        super().__init__()
        layers = pretrained.encoders.fusion_encoder.layers
        if num_layers > len(layers):
            raise ValueError(
                f"the decoder has {num_layers} layers, the fusion encoder to start from only {len(layers)}"
            )
        self.embeddings = copy.deepcopy(pretrained.encoders.text_encoder.embeddings)
        self.layers = LayerList(copy.deepcopy(layer) for layer in layers[:num_layers])
        self.token_head = copy.deepcopy(pretrained.token_head)

    def forward(self, answers: Sequences, questions: Context) -> Tensor:
        """Token ids (A, L) int64 -> logits (A, L, V) of the token that follows each position."""
        return self.logits(self.states(answers, questions).padded())

    def states(
        self, answers: SequencesT, questions: Context, *, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> SequencesT:
        """Token ids (A, L) int64 -> states (A, L, H).

        Args:
            questions: what the answers attend to.
            positions: int64, in the shape of the token ids: the position whose embedding each token gets. None: they
                count up from 0.
            mask: (A, L, L) bool: position l sees the columns that are True in row l. None: itself and earlier ones.
        """
        states: SequencesT = self.embeddings(answers, positions)
        for layer in self.layers:
            states = layer(states, questions, causal=True, mask=mask)
        return states

    def logits(self, states: Tensor) -> Tensor:
        """States (..., H) -> logits over the vocabulary (..., V)."""
        logits: Tensor = self.token_head(states, self.embeddings.word.weight)
        return logits

    def log_probabilities(self, states: Tensor, rows: Tensor, tokens: Tensor, among: Tensor | None = None) -> Tensor:
        """Log probabilities of some tokens after some states. The logits (R, V) are never in memory as a whole.

        Args:
            states: (R, H).
            rows, tokens: (E,) int64: score token `tokens[e]` after state `rows[e]`.
            among: int64, ascending: normalise over these tokens alone, which must hold all of `tokens`. The result is
                then an upper bound of the log probability.

        Returns:
            (E,) float32.
        """
        hidden = self.token_head.hidden(states)  # (R, H)
        words: Tensor = self.embeddings.word.weight  # (V, H)
        bias: Tensor = self.token_head.bias  # (V,)
        if among is not None:
            words, bias, tokens = words[among], bias[among], torch.searchsorted(among, tokens)
        # Elements of one block of logits: on a CPU so few that they stay in its cache, on a GPU enough to keep it busy.
        size = max(1, (1 << 19 if states.device.type == "cpu" else 1 << 26) // max(1, len(states)))
        total = hidden.new_full((len(states),), -torch.inf, dtype=torch.float32)
        wanted = hidden.new_zeros(len(tokens), dtype=torch.float32)
        for start in range(0, len(words), size):
            logits = F.linear(hidden, words[start : start + size], bias[start : start + size]).float()  # (R, block)
            total = torch.logaddexp(total, logits.logsumexp(dim=1))
            inside = ((tokens >= start) & (tokens < start + size)).nonzero()[:, 0]
            wanted[inside] = logits[rows[inside], tokens[inside] - start]
        return wanted - total[rows]
