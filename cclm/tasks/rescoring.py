"""Two-stage retrieval scores: rank by similarity, then re-score each query's best candidates with the matching head.

The published procedure (docs/method.md, section Evaluation) runs the fusion encoder on padded texts, with the image's
states repeated for each of its candidates. It does so once for images and once for texts as queries. This module gives
the same scores with less work:

- A pair that is a candidate in both directions is scored once.
- The candidate texts of an image are packed without padding and attend to its states together.
- The first layer's self-attention, which does not depend on the image, is computed once for each text.
- The last layer computes position 0 only.

Dimension letters: N images, T texts, K texts of one image, L tokens, P patches, H width, E width of the shared space.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cclm.model.attention import Context
from cclm.model.cclm import CCLM
from cclm.sequences import AnySequences, PackedSequences, Sequences
from cclm.tasks.retrieval import RetrievalTask

NOT_RESCORED = -100.0
"""Score of a pair that similarity alone ruled out, as published."""
_TEXTS_AT_ONCE = 128

RetrievalModel = CCLM | RetrievalTask


@dataclass(frozen=True)
class EncodedViews:
    """Images and texts of a test set after the encoders."""

    images: Sequences
    """(N, 1+P, H)"""
    texts: AnySequences
    """(T, L, H)"""
    image_features: Tensor
    """(N, E) float32"""
    text_features: Tensor
    """(T, E) float32"""


@dataclass(frozen=True)
class TwoStageScores:
    """Scores of all pairs in both directions. They differ in which pairs were re-scored."""

    image_to_text: Tensor
    """(N, T) float32"""
    text_to_image: Tensor
    """(T, N) float32"""


def similarities(image_features: Tensor, text_features: Tensor) -> Tensor:
    """Unit features (N, E) and (T, E) -> cosines (N, T) float32."""
    # Ranks need float32. In bfloat16 many similarities would be equal.
    with torch.autocast(image_features.device.type, enabled=False):
        return image_features.float() @ text_features.float().T


@dataclass(frozen=True)
class Candidates:
    """The pairs that the matching head re-scores."""

    of_images: Tensor
    """(N, T) bool: the text is one of the image's best."""
    of_texts: Tensor
    """(N, T) bool: the image is one of the text's best."""

    @staticmethod
    def best(similarity: Tensor, candidates: int) -> Candidates:
        """The best `candidates` of each row and of each column of the similarities (N, T)."""
        return Candidates(_best(similarity, candidates), _best(similarity.T, candidates).T)

    def texts_of(self, image: int) -> Tensor:
        """The texts to be scored with an image, (K,) int64, ascending."""
        return (self.of_images[image] | self.of_texts[image]).nonzero()[:, 0]

    def scores(self, pair_scores: Tensor) -> TwoStageScores:
        """Scores of pairs (N, T) -> scores of both directions, with NOT_RESCORED for pairs that are no candidates."""
        ruled_out = torch.full_like(pair_scores, NOT_RESCORED)
        return TwoStageScores(
            torch.where(self.of_images, pair_scores, ruled_out),
            torch.where(self.of_texts, pair_scores, ruled_out).T,
        )


def _best(similarity: Tensor, candidates: int) -> Tensor:
    """True for the best `candidates` of each row: (N, T) -> (N, T) bool."""
    top = similarity.topk(min(candidates, similarity.shape[1]), dim=1).indices
    return torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, top, True)


def prepare(model: RetrievalModel, texts: AnySequences) -> PackedSequences:
    """States of texts (T, L, H) -> states for `match_scores`, with all done that does not depend on an image."""
    packed = texts if isinstance(texts, PackedSequences) else PackedSequences.pack(texts)
    return model.encoders.fusion_encoder.prepare(packed)


@torch.no_grad()
def match_scores(model: RetrievalModel, image: Sequences, texts: PackedSequences) -> Tensor:
    """Logit 1 of the matching head ("they belong together") for one image with each of K texts: (K,) float32.

    Args:
        image: states (1, 1+P, H).
        texts: states from `prepare`.
    """
    scores = torch.empty(len(texts), dtype=torch.float32, device=texts.device)
    by_length = texts.lengths.argsort(stable=True)  # attention pads to the longest text of a group
    for rows in torch.split(by_length, _TEXTS_AT_ONCE):
        first = model.encoders.fusion_encoder.forward_first_prepared(texts.select(rows), Context(image))  # (rows, H)
        scores[rows] = model.match_head(first)[:, 1].float()
    return scores


@torch.no_grad()
def two_stage_scores(model: RetrievalModel, views: EncodedViews, candidates: int) -> TwoStageScores:
    """Scores of a whole test set. With `candidates` 0, the similarities themselves are the scores."""
    similarity = similarities(views.image_features, views.text_features)  # (N, T)
    if candidates == 0:
        return TwoStageScores(similarity, similarity.T)
    texts = prepare(model, views.texts)
    chosen = Candidates.best(similarity, candidates)
    pair_scores = torch.full_like(similarity, NOT_RESCORED)  # (N, T)
    for number in range(len(views.images)):
        rows = chosen.texts_of(number)
        if len(rows):
            image = views.images.select(torch.tensor([number], device=rows.device))
            pair_scores[number, rows] = match_scores(model, image, texts.select(rows))
    return chosen.scores(pair_scores)
