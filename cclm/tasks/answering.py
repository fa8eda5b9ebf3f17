"""Visual questions: train a decoder on answers, rank a list of answers at evaluation (GQA, xGQA).

Dimension letters: B questions, A answers, L tokens of the longest answer, H width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cclm.data.batches.finetuning_batch import AnswerBatch
from cclm.model.attention import Context
from cclm.model.cclm import CCLM
from cclm.model.decoder import AnswerDecoder
from cclm.sequences import Sequences
from cclm.tasks.ranking import AnswerTree, RankedAnswers, rank_answers


class AnsweringTask(nn.Module):
    def __init__(self, pretrained: CCLM, num_decoder_layers: int) -> None:
        super().__init__()
        self.decoder = AnswerDecoder(pretrained, num_decoder_layers)
        self.encoders = pretrained.encoders

    def fresh_parameters(self) -> set[str]:
        return set()

    def read_questions(self, images: Tensor, questions: Sequences) -> Sequences:
        """Images (B, R, R, 3) uint8 and token ids (B, L) -> question states (B, L, H) that have seen the image."""
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

    def rank(self, images: Tensor, questions: Sequences, answer_list: Sequences, candidates: int) -> RankedAnswers:
        """Rank a list of A answers, token ids (A, L), for each question (`ranking.rank_answers`)."""
        ids = [row[:length] for row, length in zip(answer_list.padded().tolist(), _lengths(answer_list), strict=True)]
        tree = AnswerTree.build(ids).to(images.device)
        with torch.no_grad():
            return rank_answers(self.decoder, self.read_questions(images, questions), tree, candidates)


def _lengths(answers: Sequences) -> list[int]:
    return [answers.padded().shape[1]] * len(answers) if answers.lengths is None else answers.lengths.tolist()
