"""Masking: how many, where, and what stands there instead."""

import random
from collections import Counter

import pytest

from cclm.config.sources import MaskingConfig
from cclm.data.examples.masking import draw_positions, mask
from cclm.data.examples.tokenizer import Tokenizer


def test_the_number_of_places_is_exact() -> None:
    config = MaskingConfig()
    for length in range(2, 41):
        for draw in range(20):
            places = draw_positions(length, config.max_masks, config, random.Random(draw))
            assert len(places) == min(12, max(1, round(0.4 * length))) or len(places) == length - 1
            assert places == sorted(set(places)) and places[0] >= 1 and places[-1] < length


def test_few_and_no_tokens() -> None:
    config = MaskingConfig(mask_probability=0.01)
    assert len(draw_positions(40, 12, config, random.Random(0))) == 1
    assert draw_positions(2, 12, config, random.Random(0)) == [1]
    assert draw_positions(1, 12, config, random.Random(0)) == []


def test_places_are_uniform_without_spans() -> None:
    config = MaskingConfig(span_probability=0.0, mask_probability=0.3)
    rng = random.Random(3)
    counts = Counter(place for _ in range(4000) for place in draw_positions(20, 12, config, rng))
    assert set(counts) == set(range(1, 20))
    expected = 4000 * 6 / 19
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def test_spans_make_neighbours_more_frequent() -> None:
    def neighbours(span_probability: float) -> int:
        config = MaskingConfig(span_probability=span_probability, mask_probability=0.1)
        rng = random.Random(4)
        drawn = (draw_positions(40, 12, config, rng) for _ in range(500))
        return sum(b - a == 1 for places in drawn for a, b in zip(places, places[1:], strict=False))

    assert neighbours(1.0) > 4 * neighbours(0.0)
    config = MaskingConfig(span_probability=1.0, max_span=3, mask_probability=0.05)  # 2 of 40: one span is enough
    for seed in range(50):
        places = draw_positions(40, 12, config, random.Random(seed))
        assert len(places) == 2 and places[1] - places[0] <= 2 or 39 in places


def test_tokens_are_replaced_80_10_10(tokenizer: Tokenizer) -> None:
    config = MaskingConfig(max_tokens=80)
    ids = tokenizer.ids("a red ball near a window beside an old fence r1 r2 r3", 80)
    rng, outcome = random.Random(5), Counter()
    for _ in range(1500):
        result = mask(ids, tokenizer, config, rng)
        assert result.labels == [ids[column] for column in result.columns]
        untouched = set(range(len(ids))) - set(result.columns)
        assert all(result.ids[i] == ids[i] for i in untouched) and 0 in untouched
        for column in result.columns:
            new = result.ids[column]
            outcome["mask" if new == tokenizer.mask else "kept" if new == ids[column] else "random"] += 1
            assert new == tokenizer.mask or new == ids[column] or new in tokenizer.ordinary_ids
    total = sum(outcome.values())
    assert outcome["mask"] / total == pytest.approx(0.8, abs=0.02)
    assert outcome["random"] / total == pytest.approx(0.1, abs=0.015)
    assert outcome["kept"] / total == pytest.approx(0.1, abs=0.015)


def test_the_limit_of_joined_texts_adds_up(tokenizer: Tokenizer) -> None:
    config = MaskingConfig(max_masks=6)
    ids = tokenizer.ids("a yellow house under the bridge", 40)
    joined = [*ids, *ids[1:]] * 2
    assert len(mask(joined, tokenizer, config, random.Random(1), texts=2).columns) == 12
    assert len(mask(joined, tokenizer, config, random.Random(1)).columns) == 6


def test_whole_words_are_masked_together() -> None:
    starts = [True, True, False, False, True, False, True, True, False, False, False, True]
    words = [{1, 2, 3}, {4, 5}, {6}, {7, 8, 9, 10}, {11}]
    config = MaskingConfig(whole_words=True, mask_probability=0.01, span_probability=0.0)
    for seed in range(100):
        assert len(draw_positions(12, 12, config, random.Random(seed), starts)) == 1  # the count holds all the same
    config = MaskingConfig(whole_words=True, mask_probability=1.0, max_masks=4, span_probability=0.0)
    exact = 0
    for seed in range(200):
        places = set(draw_positions(12, 4, config, random.Random(seed), starts))
        exact += all(word <= places or not word & places for word in words)
    split = sum(
        all(word <= set(draw_positions(12, 4, config, random.Random(seed))) for word in words[:1])
        for seed in range(200)
    )
    assert exact > 60 > split


def test_the_draw_depends_on_the_generator_alone(tokenizer: Tokenizer) -> None:
    ids = tokenizer.ids("a yellow house under the bridge", 40)
    config = MaskingConfig()
    random.seed(1)
    first = mask(ids, tokenizer, config, random.Random(9))
    random.seed(2)
    assert mask(ids, tokenizer, config, random.Random(9)) == first
    assert any(mask(ids, tokenizer, config, random.Random(seed)) != first for seed in range(10, 13))
