"""Lists of examples become typed batches (`batch.py`; dimension letters there).

Images come apart from the rest of the examples, as one tensor: so a worker hands over one tensor for each batch instead
of one for each example.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cclm.data.batches.batch import (
    ImageTextBatch,
    JoinedTextBatch,
    MaskedText,
    ParallelTextBatch,
    PretrainBatch,
    RegionTextBatch,
)
from cclm.data.examples.masking import MaskedIds
from cclm.data.examples.pretraining_examples import ImageTextExample, ParallelTextExample, RegionExample
from cclm.sequences import Sequences

Collate = Callable[[Tensor | None, list[Any], random.Random], PretrainBatch]
"""(images (N, R, R, 3) uint8 or None, the N examples, random numbers of this batch) -> batch. The examples are of the
one kind that the source makes."""


def collate_function(kind: str, texts: int, pad_id: int) -> Collate:
    """The collate function of a source.

    Args:
        kind: name of the source.
        texts: number of texts of this process's part of a batch (regions only).
        pad_id: id of `<pad>`.
    """
    if kind == "regions":
        return partial(collate_regions, num_texts=texts, pad_id=pad_id)
    if kind == "texts":
        return partial(collate_parallel_text, pad_id=pad_id)
    return partial(collate_image_text, pad_id=pad_id)


def masked_text(texts: Sequence[MaskedIds], pad_id: int) -> MaskedText:
    """Pad B masked texts, and list their M masked positions, text by text."""
    rows = [row for row, text in enumerate(texts) for _ in text.columns]
    columns = [column for text in texts for column in text.columns]
    labels = [label for text in texts for label in text.labels]
    tokens = Sequences.from_lists([text.ids for text in texts], pad_id)
    return MaskedText(tokens, *(torch.tensor(values, dtype=torch.int64) for values in (rows, columns, labels)))


def collate_image_text(
    images: Tensor | None, examples: list[ImageTextExample], rng: random.Random, pad_id: int
) -> ImageTextBatch:
    """One text for each image, or two."""
    assert images is not None
    text = Sequences.from_lists([example.text.ids for example in examples], pad_id)
    second = [example.second for example in examples if example.second is not None]
    second_text = Sequences.from_lists(second, pad_id) if second else None
    return ImageTextBatch(images, text, masked_text([example.text.masked for example in examples], pad_id), second_text)


def collate_regions(
    images: Tensor | None, examples: list[RegionExample], rng: random.Random, num_texts: int, pad_id: int
) -> RegionTextBatch:
    """Exactly `num_texts` texts, as published: too many are sampled down, too few are filled up by repeating some.

    The texts keep the order of their images. An image that loses all its texts leaves the batch.
    """
    assert images is not None
    all_texts = [(image, text) for image, example in enumerate(examples) for text in example.texts]
    count = len(all_texts)
    if count >= num_texts:
        chosen = rng.sample(range(count), num_texts)
    else:  # whole rounds first, so that the numbers of repeats differ by at most one
        rounds, rest = divmod(num_texts, count)
        chosen = [*range(count)] * rounds + rng.sample(range(count), rest)
    picked = [all_texts[i] for i in sorted(chosen)]
    used = sorted({image for image, _ in picked})
    new_index = {image: i for i, image in enumerate(used)}
    texts = [text for _, text in picked]
    return RegionTextBatch(
        images=images if len(used) == len(images) else images[torch.tensor(used)],
        text=Sequences.from_lists([text.text.ids for text in texts], pad_id),
        masked=masked_text([text.text.masked for text in texts], pad_id),
        image_of_text=torch.tensor([new_index[image] for image, _ in picked], dtype=torch.int64),
        patches=torch.tensor([text.patches for text in texts], dtype=torch.bool),
        boxes=torch.tensor([text.box for text in texts], dtype=torch.float32),
        is_whole_image=torch.tensor([text.is_whole_image for text in texts], dtype=torch.bool),
    )


def collate_parallel_text(
    images: Tensor | None, examples: list[ParallelTextExample], rng: random.Random, pad_id: int
) -> ParallelTextBatch | JoinedTextBatch:
    """Pairs of texts; with TLM, each pair also joined to one masked sequence."""
    source = Sequences.from_lists([example.source.ids for example in examples], pad_id)
    target = Sequences.from_lists([example.target for example in examples], pad_id)
    joined = [example.joined for example in examples if example.joined is not None]
    if joined:
        return JoinedTextBatch(source, target, masked_text(joined, pad_id))
    return ParallelTextBatch(source, masked_text([example.source.masked for example in examples], pad_id), target)
