"""Which tokens of a text are hidden for masked language modelling, and what stands in their place.

As published: round(probability * tokens) places (`<s>` and `</s>` count as tokens; Python's rounding, halves to even),
at least 1 and at most `max_masks`. `</s>` can be masked, `<s>` never.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from cclm.config.sources import MaskingConfig
from cclm.data.examples.draws import in_random_order
from cclm.data.examples.tokenizer import Tokenizer

_MASKED, _REPLACED = 0.8, 0.9  # below the first: <mask>; below the second: a random token; above: kept


@dataclass(frozen=True)
class MaskedIds:
    """One text after masking."""

    ids: list[int]
    columns: list[int]
    """Masked places, ascending."""
    labels: list[int]
    """What stood there."""


def mask(
    ids: Sequence[int], tokenizer: Tokenizer, config: MaskingConfig, rng: random.Random, texts: int = 1
) -> MaskedIds:
    """Mask `ids` (`<s>` first). `texts`: how many texts were joined in it; the limit holds for each, so it adds up."""
    limit = config.max_masks * texts
    places = draw_places(len(ids), limit, config, rng, _word_starts(ids, tokenizer) if config.whole_words else None)
    masked = list(ids)
    for place in places:
        draw = rng.random()
        if draw < _MASKED:
            masked[place] = tokenizer.mask
        elif draw < _REPLACED:
            masked[place] = rng.choice(tokenizer.ordinary_ids)
    return MaskedIds(masked, places, [ids[place] for place in places])


def draw_places(
    length: int, limit: int, config: MaskingConfig, rng: random.Random, word_starts: Sequence[bool] | None = None
) -> list[int]:
    """Places in 1..length-1 to mask, ascending. `word_starts` (length entries) turns on whole-word masking.

    Candidates come in random order; each is taken alone or, with `span_probability`, with its right neighbours up to a
    span of 2..max_span; whole words grow both ends to word boundaries. What exceeds the number wanted is drawn out
    again at random.
    """
    if length < 2:
        return []
    wanted = min(limit, max(1, round(config.mask_probability * length)))
    taken: set[int] = set()
    for place in in_random_order(range(1, length), rng):
        if len(taken) >= wanted:
            break
        if place in taken:
            continue
        span = 1
        if config.max_span >= 2 and rng.random() < config.span_probability:
            span = rng.randint(2, config.max_span)
        start, end = place, min(place + span, length)
        if word_starts is not None:
            while start > 1 and not word_starts[start]:
                start -= 1
            while end < length and not word_starts[end]:
                end += 1
        taken.update(range(start, end))
    places = sorted(taken)
    return places if len(places) <= wanted else sorted(rng.sample(places, wanted))


def _word_starts(ids: Sequence[int], tokenizer: Tokenizer) -> list[bool]:
    return [tokenizer.starts_word[i] for i in ids]
