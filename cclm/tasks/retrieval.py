"""Image-text retrieval: fine-tuning loss and two-stage scoring (Multi30K, COCO, xFlickr&CO, WIT).

Dimension letters: B pairs of a batch, N images, T texts, L tokens, P patches, H width, E width of the shared space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cclm.config import EvaluationConfig
from cclm.data.annotations.types import RetrievalSet
from cclm.data.batch_finetune import RetrievalBatch
from cclm.data.evaluation_batches import evaluation_images, evaluation_texts
from cclm.data.text import Tokenizer
from cclm.metrics.retrieval import retrieval_metrics
from cclm.model.attention import Context
from cclm.model.cclm import CCLM
from cclm.sequences import Sequences
from cclm.tasks import losses

NOT_RESCORED = -100.0
"""Score of a pair that similarity alone ruled out, as published."""


class RetrievalTask(nn.Module):
    """Contrast and matching with image ids: captions of one image are not negatives of each other."""

    def __init__(self, pretrained: CCLM) -> None:
        super().__init__()
        self.encoders = pretrained.encoders
        self.space = pretrained.space
        self.match_head = pretrained.match_head

    def fresh_parameters(self) -> set[str]:
        return set()

    def forward(self, batch: RetrievalBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses by name, each (). `generator` draws the hard negatives, on the batch's device."""
        images = self.encoders.encode_images(batch.images)  # (B, 1+P, H)
        text = self.encoders.encode_text(batch.text)  # (B, L, H)
        image_features = self.space.image_features(images.first())  # (B, E)
        text_features = self.space.text_features(text.first())  # (B, E)
        temperature = self.space.temperature
        negatives = losses.draw_hard_negatives(image_features, text_features, temperature, generator, batch.image_ids)
        own = torch.arange(len(text), device=text.device)
        pairs = Sequences.concat([text, text, text.select(negatives.right_of_left)])
        context = Context(images, torch.cat([own, negatives.left_of_right, own]))
        return {
            "loss_itc": losses.contrastive(image_features, text_features, temperature, ids=batch.image_ids),
            "loss_itm": losses.matching(self.match_head(self.encoders.fuse_first(pairs, context)), negatives.exist),
        }


@dataclass(frozen=True)
class EncodedViews:
    """Images and texts of a test set after the encoders."""

    images: Sequences
    """(N, 1+P, H)"""
    texts: Sequences
    """(T, L, H)"""
    image_features: Tensor
    """(N, E) float32"""
    text_features: Tensor
    """(T, E) float32"""


@dataclass(frozen=True)
class TwoStageScores:
    image_to_text: Tensor
    """(N, T) float32"""
    text_to_image: Tensor
    """(T, N) float32"""


@torch.no_grad()
def two_stage_scores(
    model: CCLM | RetrievalTask, views: EncodedViews, candidates: int, *, pairs_at_once: int = 512
) -> TwoStageScores:
    """Rank by similarity, then re-score each query's best `candidates` with the matching head (its logit 1).

    A pair is a candidate of its image, of its text, or of both; its score is the same either way and computed once.
    With `candidates` 0 the similarities themselves are the scores. All other pairs score -100, as published.
    """
    # Ranks need float32: rounded to bfloat16, many similarities would be equal.
    with torch.autocast(views.image_features.device.type, enabled=False):
        similarity = views.image_features.float() @ views.text_features.float().T  # (N, T)
    if candidates == 0:
        return TwoStageScores(similarity, similarity.T)
    of_image = _best(similarity, candidates)  # (N, T) bool
    of_text = _best(similarity.T, candidates)  # (T, N) bool
    scores = torch.full_like(similarity, NOT_RESCORED)
    image_rows, text_rows = (of_image | of_text.T).nonzero(as_tuple=True)  # sorted by image
    for images, texts in zip(image_rows.split(pairs_at_once), text_rows.split(pairs_at_once), strict=True):
        distinct, rows = images.unique_consecutive(return_inverse=True)
        context = Context(views.images.select(distinct), rows)
        fused = model.encoders.fuse(views.texts.select(texts), context)
        scores[images, texts] = model.match_head(fused.first())[:, 1].float()
    unscored = torch.full_like(scores, NOT_RESCORED)
    return TwoStageScores(torch.where(of_image, scores, unscored), torch.where(of_text, scores.T, unscored.T))


def _best(similarity: Tensor, candidates: int) -> Tensor:
    """(Q, C) scores -> (Q, C) bool: the best `candidates` of each row."""
    top = similarity.topk(min(candidates, similarity.shape[1]), dim=1).indices
    return torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, top, True)


@torch.no_grad()
def encode_views(
    model: CCLM | RetrievalTask,
    dataset: RetrievalSet,
    tokenizer: Tokenizer,
    config: EvaluationConfig,
    *,
    image_size: int,
    device: torch.device,
) -> EncodedViews:
    """All images and texts of a test set through the encoders, `config.batch_size` at once."""
    images = [
        model.encoders.encode_images(batch.to(device, non_blocking=True))
        for batch in evaluation_images(dataset.images, image_size, config.batch_size)
    ]
    texts = [
        model.encoders.encode_text(batch.to(device, non_blocking=True))
        for batch in evaluation_texts(dataset.texts, tokenizer, config.max_words, config.max_tokens, config.batch_size)
    ]
    all_images, all_texts = Sequences.concat(images), Sequences.concat(texts)
    return EncodedViews(
        all_images,
        all_texts,
        model.space.image_features(all_images.first()),
        model.space.text_features(all_texts.first()),
    )


def evaluate_retrieval(
    model: CCLM | RetrievalTask,
    dataset: RetrievalSet,
    tokenizer: Tokenizer,
    config: EvaluationConfig,
    *,
    image_size: int,
    device: torch.device,
) -> dict[str, float]:
    """Recalls of one test set, in percent (`metrics.retrieval`); the model is used in the mode it is in.

    Raises:
        UserError: an image is missing or broken, or a caption is empty.
    """
    views = encode_views(model, dataset, tokenizer, config, image_size=image_size, device=device)
    scores = two_stage_scores(model, views, config.candidates)
    return retrieval_metrics(
        scores.image_to_text.float().cpu().numpy(),
        scores.text_to_image.float().cpu().numpy(),
        np.array(dataset.image_of_text),
    )
