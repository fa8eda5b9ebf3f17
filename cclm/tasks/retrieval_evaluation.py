"""Evaluation of retrieval sets in several languages, by all processes together.

An image that several languages describe is encoded once. Each process encodes its share of the images and of the
texts. Features and text states are gathered, and each process re-scores the pairs of its own images. See
docs/method.md, section Evaluation.

Dimension letters: N images of a set, T texts, P patches, H width, E width of the shared space.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cclm import distributed
from cclm.data.annotations.annotation_sets import ImageRef, RetrievalSet
from cclm.data.batches.evaluation_batches import evaluation_images
from cclm.data.examples.texts import caption_ids
from cclm.data.examples.tokenizer import Tokenizer
from cclm.metrics.measured import Measured, refuse_scores_not_finite
from cclm.metrics.progress import with_progress
from cclm.metrics.recall import ranks_of_images, ranks_of_texts, retrieval_metrics
from cclm.sequences import PackedSequences, Sequences
from cclm.tasks.rescoring import (
    NOT_RESCORED,
    Candidates,
    RetrievalModel,
    TwoStageScores,
    match_scores,
    prepare,
    similarities,
)
from cclm.tasks.shares import Shares

Item = TypeVar("Item")


@dataclass(frozen=True)
class RetrievalTest:
    """How test sets are measured."""

    image_size: int
    """px"""
    batch_size: int
    """Images at once."""
    text_batch_size: int
    """Texts at once."""
    candidates: int
    """Number of candidates that are re-scored for each query. 0: similarity alone ranks."""
    max_words: int
    """Words of a caption; the rest is cut off."""
    max_tokens: int
    """Tokens of a caption, with `<s>` and `</s>`; the rest is cut off."""


@torch.no_grad()
def evaluate_retrieval(
    model: RetrievalModel,
    sets: Mapping[str, RetrievalSet],
    tokenizer: Tokenizer,
    test: RetrievalTest,
    device: torch.device,
) -> dict[str, Measured]:
    """Recalls in percent (`metrics.recall`) of each set, the same on every process.

    Args:
        model: on `device`. It stays in its mode, training or evaluation.
        sets: name (a language) -> set.

    Raises:
        UserError: an image is missing or broken, a caption is empty, or the model gives scores that are not finite.
    """
    images = _Images.encode(model, sets.values(), test, device)
    return {name: _measure(model, name, dataset, images, tokenizer, test, device) for name, dataset in sets.items()}


@dataclass(frozen=True)
class _Images:
    """The distinct images of all sets, encoded."""

    number: dict[ImageRef, int]
    """Numbers of the images, from 0."""
    shares: Shares
    states: dict[int, Sequences]
    """Number -> states (1, 1+P, H), for the images of this process."""
    features: Tensor
    """(all images, E) float32"""

    @staticmethod
    def encode(
        model: RetrievalModel, sets: Iterable[RetrievalSet], test: RetrievalTest, device: torch.device
    ) -> _Images:
        number: dict[ImageRef, int] = {}
        for dataset in sets:
            for image in dataset.images:
                number.setdefault(image, len(number))
        shares = Shares(len(number), test.batch_size)
        mine, refs = shares.items(), list(number)
        batches = evaluation_images([refs[item] for item in mine], test.image_size, test.batch_size)
        states: dict[int, Sequences] = {}
        features = []
        for rows, batch in zip(shares.batches(), _with_progress(batches, len(shares.batches()), "images"), strict=True):
            encoded = model.encoders.encode_images(batch.to(device, non_blocking=True))
            features.append(model.space.image_features(encoded.first()))
            states |= dict(zip(rows, encoded.split([1] * len(rows)), strict=True))
        return _Images(number, shares, states, shares.gather(torch.cat(features) if features else None))


@dataclass(frozen=True)
class _RescoredImage:
    """Scores of one image with its K candidates. Arrays, since processes exchange them by pickle."""

    image: int
    """Its place in the set."""
    texts: npt.NDArray[np.int64]
    """(K,)"""
    scores: npt.NDArray[np.float32]
    """(K,)"""


def _measure(
    model: RetrievalModel,
    name: str,
    dataset: RetrievalSet,
    images: _Images,
    tokenizer: Tokenizer,
    test: RetrievalTest,
    device: torch.device,
) -> Measured:
    shares = Shares(len(dataset.texts), test.text_batch_size)
    packed, features = _encode_texts(model, name, dataset, shares, tokenizer, test, device)
    numbers = [images.number[image] for image in dataset.images]  # N
    similarity = similarities(images.features[torch.tensor(numbers, device=device)], features)  # (N, T)
    # Checked here, because NOT_RESCORED replaces the scores of other pairs.
    refuse_scores_not_finite(similarity.float().cpu().numpy())
    if test.candidates == 0:
        scores = TwoStageScores(similarity.cpu(), similarity.T.cpu())
    else:
        texts = shares.gather_packed(packed)
        chosen = Candidates.best(similarity, test.candidates)
        pair_scores = torch.full(similarity.shape, NOT_RESCORED)  # (N, T)
        mine = [row for row, number in enumerate(numbers) if images.shares.is_mine(number)]
        rescored: list[_RescoredImage] = []
        for row in _with_progress(mine, len(mine), f"re-scoring {name}", unit="image"):
            rows = chosen.texts_of(row)
            if len(rows):
                matched = match_scores(model, images.states[numbers[row]], texts.select(rows))
                rescored.append(_RescoredImage(row, rows.cpu().numpy(), matched.cpu().numpy()))
        for one in (one for part in distributed.gather_objects(rescored) for one in part):
            pair_scores[one.image, torch.from_numpy(one.texts)] = torch.from_numpy(one.scores)
        scores = Candidates(chosen.of_images.cpu(), chosen.of_texts.cpu()).scores(pair_scores)
    i2t, t2i, own = scores.image_to_text.numpy(), scores.text_to_image.numpy(), np.array(dataset.image_of_text)
    predictions = _predictions(dataset, i2t, t2i, own) if distributed.rank() == 0 else []
    return Measured(retrieval_metrics(i2t, t2i, own), len(dataset.images) + len(dataset.texts), predictions)


def _encode_texts(
    model: RetrievalModel,
    name: str,
    dataset: RetrievalSet,
    shares: Shares,
    tokenizer: Tokenizer,
    test: RetrievalTest,
    device: torch.device,
) -> tuple[PackedSequences | None, Tensor]:
    """States of this process's texts as `match_scores` takes them, and features (T, E) float32 of all texts.

    The states are None where no pair is re-scored, or where this process has no texts.
    """
    states, lengths, features = [], [], []
    batches = shares.batches()
    for rows in _with_progress(batches, len(batches), f"texts {name}"):
        ids = caption_ids(dataset, rows, tokenizer, test.max_words, test.max_tokens)
        encoded = model.encoders.encode_text(PackedSequences.from_lists(ids).to(device, non_blocking=True))
        features.append(model.space.text_features(encoded.first()))
        if test.candidates:
            prepared = prepare(model, encoded)
            states.append(prepared.data)
            lengths.append(prepared.lengths)
    packed = PackedSequences.of(torch.cat(states), torch.cat(lengths)) if states else None
    return packed, shares.gather(torch.cat(features) if features else None)


def _predictions(
    dataset: RetrievalSet, i2t: npt.NDArray[np.float32], t2i: npt.NDArray[np.float32], own: npt.NDArray[np.int64]
) -> list[dict[str, Any]]:
    """One line for each query, images first, then texts. `rank` is the place of the best right result, from 1.

    Args:
        i2t: (N, T) scores.
        t2i: (T, N) scores.
        own: (T,), the image of each text.
    """
    texts_of: list[list[str]] = [[] for _ in dataset.images]
    for text, image in zip(dataset.texts, dataset.image_of_text, strict=True):
        texts_of[image].append(text)
    lines: list[dict[str, Any]] = []
    for row, (best, rank) in enumerate(zip(i2t.argmax(axis=1), ranks_of_images(i2t, own), strict=True)):
        lines.append(
            {
                "image": dataset.images[row].url,
                "image_id": dataset.image_ids[row],
                "predicted": dataset.texts[best],
                "right": texts_of[row],
                "score": float(i2t[row, best]),
                "rank": int(rank) + 1,
            }
        )
    for number, (best, rank) in enumerate(zip(t2i.argmax(axis=1), ranks_of_texts(t2i, own), strict=True)):
        lines.append(
            {
                "text": dataset.texts[number],
                "predicted": dataset.images[best].url,
                "right": dataset.images[own[number]].url,
                "score": float(t2i[number, best]),
                "rank": int(rank) + 1,
            }
        )
    return lines


def _with_progress(items: Iterable[Item], total: int, what: str, unit: str = "batch") -> Iterator[Item]:
    """`items`, counted by a progress bar on the first process."""
    return with_progress(items, total, what, active=distributed.rank() == 0, unit=unit)
