"""Visual questions (GQA, xGQA): a decoder learns answers in training and ranks a list of answers in evaluation.

See docs/method.md, section Fine-tuning tasks.

Dimension letters: B questions, R image side in pixels, A answers, L tokens of the longest text, H width, V vocabulary.
Token ids are int64.
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
    """Encoders, which fuse a question with its image, and a decoder that attends to the result."""

    def __init__(self, pretrained: CCLM, num_decoder_layers: int) -> None:
        super().__init__()
        self.decoder = AnswerDecoder(pretrained, num_decoder_layers)
        self.encoders = pretrained.encoders

    def fresh_parameters(self) -> set[str]:
        """Names of parameters without pre-trained weights: none, since the decoder starts from the fusion encoder."""
        return set()

    def encode_questions(self, images: Tensor, questions: Sequences) -> Sequences:
        """Images (B, R, R, 3) uint8 and token ids (B, L) -> question states (B, L, H) fused with the image."""
        context = Context(self.encoders.encode_images(images))
        return self.encoders.fuse(self.encoders.encode_text(questions), context)

    def forward(self, batch: AnswerBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """{"loss": ()}: each answer's loss times its weight, summed and divided by the number of images.

        `generator` is not used.
        """
        questions = self.encode_questions(batch.images, batch.questions)
        each = self.answer_losses(batch.answers, Context(questions, batch.question_of_answer))  # (A,)
        return {"loss": (each * batch.weights).sum() / len(batch.images)}

    def answer_losses(self, answers: Sequences, questions: Context) -> Tensor:
        """Cross-entropy of each answer (A, L), summed over its tokens after `<s>`, without padding: (A,) float32."""
        logits = self.decoder(answers, questions)[:, :-1].float()  # (A, L-1, V)
        targets = answers.padded()[:, 1:]  # (A, L-1)
        each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
        mask = answers.padding_mask()
        return each.sum(dim=1) if mask is None else (each * mask[:, 1:]).sum(dim=1)

    def rank(self, images: Tensor, questions: Sequences, answer_list: Sequences, candidates: int) -> RankedAnswers:
        """Rank a list of A answers, token ids (A, L), for each question.

        Args:
            images: (B, R, R, 3) uint8.
            questions: token ids (B, L).
            answer_list: `<s> ... </s>`.
            candidates: number of answers that are scored in full; see `ranking.rank_answers`.
        """
        ids = [row[:length] for row, length in zip(answer_list.padded().tolist(), _lengths(answer_list), strict=True)]
        tree = AnswerTree.build(ids).to(images.device)
        with torch.no_grad():
            return rank_answers(self.decoder, self.encode_questions(images, questions), tree, candidates)


def _lengths(answers: Sequences) -> list[int]:
    """Length of each of A answers in tokens."""
    if answers.lengths is None:
        return [answers.padded().shape[1]] * len(answers)
    return [int(length) for length in answers.lengths.tolist()]
