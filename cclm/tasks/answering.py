"""Visual questions: train a decoder on answers, rank a list of answers at evaluation (GQA, xGQA).

Dimension letters: B questions, A answers, L tokens of the longest answer, K candidates, H width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cclm.data.batch_finetune import AnswerBatch
from cclm.model.attention import Context
from cclm.model.cclm import CCLM
from cclm.model.decoder import AnswerDecoder
from cclm.sequences import Sequences


@dataclass(frozen=True)
class RankedAnswers:
    """The best answers of each question, best first."""

    answers: Tensor
    """(B, K) int64, rows of the answer list."""
    probabilities: Tensor
    """(B, K) float32, over the K candidates."""


class AnsweringTask(nn.Module):
    def __init__(self, pretrained: CCLM, num_decoder_layers: int) -> None:
        super().__init__()
        self.decoder = AnswerDecoder(pretrained, num_decoder_layers)
        self.encoders = pretrained.encoders

    def fresh_parameters(self) -> set[str]:
        return set()

    def read_questions(self, images: Tensor, questions: Sequences) -> Sequences:
        """Images (B, 3, R, R) and token ids (B, L) -> question states (B, L, H) that have seen the image."""
        seen = Context(self.encoders.encode_images(images))
        return self.encoders.fuse(self.encoders.encode_text(questions), seen)

    def forward(self, batch: AnswerBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Summed cross-entropy of each answer times its weight, added up and divided by the number of images."""
        questions = self.read_questions(batch.images, batch.questions)
        each = self.answer_losses(batch.answers, Context(questions, batch.question_of_answer))  # (A,)
        return {"loss": (each * batch.weights).sum() / len(batch.images)}

    def answer_losses(self, answers: Sequences, questions: Context) -> Tensor:
        """Summed next-token cross-entropy of each answer, (A,) float32; padding is left out."""
        logits = self.decoder(answers, questions)[:, :-1].float()  # (A, L-1, V)
        targets = answers.padded()[:, 1:]  # (A, L-1)
        each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
        mask = answers.padding_mask()
        return each.sum(dim=1) if mask is None else (each * mask[:, 1:]).sum(dim=1)

    @torch.no_grad()
    def rank(self, images: Tensor, questions: Sequences, answer_list: Sequences, candidates: int) -> RankedAnswers:
        """Rank a list of A answers for each question (as published).

        The decoder, fed `<s>` alone, gives each answer the probability of its first word; the best `candidates` are
        then scored in full: log probability of the first word (a second time) minus the answer's summed loss.
        """
        states = self.read_questions(images, questions)
        start = Sequences.full(answer_list.padded()[:1, :1].expand(len(states), 1))  # (B, 1): <s>
        first_logits = self.decoder(start, Context(states))[:, 0].float()  # (B, V)
        first_words = answer_list.padded()[:, 1]  # (A,)
        log_first = first_logits.log_softmax(dim=1)[:, first_words]  # (B, A)
        best = log_first.topk(min(candidates, len(answer_list)), dim=1)  # (B, K)
        owners = torch.arange(len(states), device=states.device).repeat_interleave(best.indices.shape[1])  # (B * K,)
        losses = self.answer_losses(answer_list.select(best.indices.flatten()), Context(states, owners))
        scores = best.values - losses.view(best.indices.shape)  # (B, K)
        order = scores.argsort(dim=1, descending=True)
        return RankedAnswers(best.indices.gather(1, order), scores.softmax(dim=1).gather(1, order))
