"""Which tokens of a text are hidden for masked language modelling, and what stands in their place.

As published: round(probability * tokens) positions, at least 1 and at most `max_masks`. `<s>` and `</s>` count as
tokens, and Python rounds halves to even. `</s>` can be masked, `<s>` never. See docs/method.md, section "Input
pipeline".
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from cclm.config.sources import MaskingConfig
from cclm.data.examples.draws import in_random_order
from cclm.data.examples.tokenizer import Tokenizer

# A masked position becomes <mask> with probability 0.8 and a random token with 0.1; otherwise the token stays.
_BELOW_MASK, _BELOW_RANDOM = 0.8, 0.9  # bounds of one uniform draw


@dataclass(frozen=True)
class MaskedIds:
    """One text after masking."""

    ids: list[int]
    columns: list[int]
    """Masked positions, ascending."""
    labels: list[int]
    """The original ids at these positions."""


def mask(
    ids: Sequence[int], tokenizer: Tokenizer, config: MaskingConfig, rng: random.Random, texts: int = 1
) -> MaskedIds:
    """Mask the ids of a text.

    Args:
        ids: `<s> ... </s>`, or several texts joined behind one `<s>`.
        texts: the number of texts in `ids`. `max_masks` holds for each, so the limits add up.
    """
    limit = config.max_masks * texts
    word_starts = _word_starts(ids, tokenizer) if config.whole_words else None
    positions = draw_positions(len(ids), limit, config, rng, word_starts)
    masked = list(ids)
    for position in positions:
        draw = rng.random()
        if draw < _BELOW_MASK:
            masked[position] = tokenizer.mask
        elif draw < _BELOW_RANDOM:
            masked[position] = rng.choice(tokenizer.ordinary_ids)
    return MaskedIds(masked, positions, [ids[position] for position in positions])


def draw_positions(
    length: int, limit: int, config: MaskingConfig, rng: random.Random, word_starts: Sequence[bool] | None = None
) -> list[int]:
    """Positions in 1..length-1 to mask, ascending.

    Positions are taken in random order until there are enough. Each comes alone or, with `span_probability`, with its
    right neighbours, as a span of 2..max_span. With whole-word masking both ends of a span move outwards to the next
    word boundaries. If this gives too many positions, a random sample of the wanted size remains.

    Args:
        length: of the text, tokens.
        limit: highest number of tokens to mask.
        word_starts: `length` entries, True for the first token of a word; turns on whole-word masking.
    """
    if length < 2:
        return []
    wanted = min(limit, max(1, round(config.mask_probability * length)))
    taken: set[int] = set()
    for position in in_random_order(range(1, length), rng):
        if len(taken) >= wanted:
            break
        if position in taken:
            continue
        span = 1
        if config.max_span >= 2 and rng.random() < config.span_probability:
            span = rng.randint(2, config.max_span)
        start, end = position, min(position + span, length)
        if word_starts is not None:
            while start > 1 and not word_starts[start]:
                start -= 1
            while end < length and not word_starts[end]:
                end += 1
        taken.update(range(start, end))
    positions = sorted(taken)
    return positions if len(positions) <= wanted else sorted(rng.sample(positions, wanted))


def _word_starts(ids: Sequence[int], tokenizer: Tokenizer) -> list[bool]:
    return [tokenizer.starts_word[i] for i in ids]
