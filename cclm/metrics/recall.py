"""Recall at 1, 5 and 10, from images to texts and back. Dimension letters: N images, T texts."""

from __future__ import annotations

import numpy as np

from cclm.metrics.measured import refuse_scores_not_finite


def ranks_of_images(scores: np.ndarray, image_of_text: np.ndarray) -> np.ndarray:
    """Rank of each image's best text among all texts, from 0: scores (N, T), image_of_text (T,) -> (N,) int64.

    A text of another image with an equal score counts as better. So a model that scores everything alike gets 0.
    """
    own = image_of_text[None, :] == np.arange(scores.shape[0])[:, None]  # (N, T)
    best = np.where(own, scores, -np.inf).max(axis=1)  # (N,)
    ranks: np.ndarray = ((scores >= best[:, None]) & ~own).sum(axis=1)
    return ranks


def ranks_of_texts(scores: np.ndarray, image_of_text: np.ndarray) -> np.ndarray:
    """Rank of each text's image among all images, from 0: scores (T, N), image_of_text (T,) -> (T,) int64."""
    own_scores = scores[np.arange(scores.shape[0]), image_of_text]  # (T,)
    ranks: np.ndarray = (scores >= own_scores[:, None]).sum(axis=1) - 1
    return ranks


def retrieval_metrics(
    image_to_text: np.ndarray, text_to_image: np.ndarray, image_of_text: np.ndarray
) -> dict[str, float]:
    """Recalls in percent under their published names.

    Args:
        image_to_text: (N, T) scores.
        text_to_image: (T, N) scores.
        image_of_text: (T,) int, the image each text belongs to; every image has at least one text.

    Returns:
        `txt_r1`, `txt_r5`, `txt_r10` (image to text), `img_r1` ... (text to image), `txt_r_mean`, `img_r_mean`, and
        their mean `r_mean`.

    Raises:
        UserError: some scores are not finite.
    """
    refuse_scores_not_finite(image_to_text)
    refuse_scores_not_finite(text_to_image)
    image_of_text = np.asarray(image_of_text)
    sides = {
        "txt": ranks_of_images(np.asarray(image_to_text), image_of_text),
        "img": ranks_of_texts(np.asarray(text_to_image), image_of_text),
    }
    metrics: dict[str, float] = {}
    for side, ranks in sides.items():
        recalls = {f"{side}_r{k}": 100.0 * float((ranks < k).mean()) for k in (1, 5, 10)}
        metrics |= recalls
        metrics[f"{side}_r_mean"] = sum(recalls.values()) / 3
    metrics["r_mean"] = (metrics["txt_r_mean"] + metrics["img_r_mean"]) / 2
    return metrics
