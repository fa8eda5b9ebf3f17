"""Scenes, drawings and claims: held-out combinations, truth re-derived from what is seen and read."""

from collections import Counter, defaultdict
from itertools import product
from random import Random

import demo_reading as reading
import pytest

from cclm.demo.captions import caption
from cclm.demo.claims import claim_text, draw_claim, draw_pair_claim, draw_question
from cclm.demo.draw import RGB, draw
from cclm.demo.languages import LANGUAGES, TEST_ONLY
from cclm.demo.languages.base import COLOURS, PLACES, SHAPES
from cclm.demo.scenes import Scene, distinct_test_scenes, held_out_scene, is_held_out, shows_held_out, training_scene


def facts(scene: Scene) -> set[tuple[str, str, str, str]]:
    return {(thing.shape, thing.colour, thing.size, thing.place) for thing in scene.things}


def test_a_fifth_of_all_combinations_is_held_out_but_no_pair_of_values() -> None:
    held_out = {triple for triple in product(SHAPES, COLOURS, PLACES) if is_held_out(*triple)}
    seen = set(product(SHAPES, COLOURS, PLACES)) - held_out
    assert len(held_out) == 64 and len(seen) == 256
    for first, second in ((0, 1), (0, 2), (1, 2)):
        values = (SHAPES, COLOURS, PLACES)
        assert {(triple[first], triple[second]) for triple in seen} == set(product(values[first], values[second]))


def test_training_scenes_avoid_and_test_scenes_show_held_out_combinations() -> None:
    rng = Random(0)
    assert not any(shows_held_out(training_scene(rng)) for _ in range(2000))
    tests = distinct_test_scenes(700, rng)
    assert all(shows_held_out(scene) for scene in tests)
    assert len({scene.content for scene in tests}) == 700


def test_scenes_have_one_to_three_things_mostly_two() -> None:
    rng = Random(1)
    counts = Counter(len(maker(rng).things) for maker in (training_scene, held_out_scene) for _ in range(1000))
    assert set(counts) == {1, 2, 3} and counts[2] > 1400
    for _ in range(300):
        scene = training_scene(rng)
        assert len({thing.place for thing in scene.things}) == len(scene.things)
        assert len({(thing.shape, thing.colour) for thing in scene.things}) == len(scene.things)


@pytest.mark.parametrize("code", [code for code, language in (LANGUAGES | TEST_ONLY).items() if language.captions])
def test_captions_are_true(code: str) -> None:
    language = (LANGUAGES | TEST_ONLY)[code]
    for seed in range(300):
        scene = held_out_scene(Random(seed))
        text = caption(scene, language, Random(seed))
        assert reading.things(code, text) == facts(scene), text
        assert len(text.split()) <= (30 if code in LANGUAGES or code == "cs" else 80), text


def test_statements_are_true_false_or_open_as_labelled() -> None:
    rng, english = Random(2), LANGUAGES["en"]
    for number in range(1500):
        scene = training_scene(rng)
        truth = (True, False, None)[number % 3]
        text = claim_text(draw_claim(scene, truth, rng), english, rng)
        assert reading.true_of(text, facts(scene)) is truth, (text, scene)


def test_pair_statements_are_true_or_false_as_labelled() -> None:
    rng, english = Random(3), LANGUAGES["en"]
    for number in range(1000):
        left, right = training_scene(rng), training_scene(rng)
        truth = number % 2 == 0
        text = claim_text(draw_pair_claim(left, right, truth, rng), english, rng)
        assert reading.true_of_pair(text, facts(left), facts(right)) is truth, (text, left, right)


def test_questions_have_one_right_answer() -> None:
    rng, english = Random(4), LANGUAGES["en"]
    answers = Counter()
    for _ in range(1500):
        scene = training_scene(rng)
        question = draw_question(scene, rng)
        text = claim_text(question, english, rng)
        assert reading.answer(text, facts(scene)) == question.answer, (text, scene)
        answers[question.answer] += 1
    assert 0.7 < answers["yes"] / answers["no"] < 1.4


def test_texts_of_training_scenes_never_name_a_held_out_combination() -> None:
    rng, english = Random(5), LANGUAGES["en"]
    for _ in range(2000):
        text = claim_text(draw_claim(training_scene(rng), False, rng), english, rng)
        named = [reading.found("en", text, fact) for fact in (0, 1, 3)]
        if all(named):
            assert not is_held_out(*(values[0] for values in named)), text


@pytest.mark.parametrize("side", [32, 64, 80])
def test_pictures_show_what_the_scene_says(side: int) -> None:
    """Each box holds pixels of the named colour at the named place, and no other place holds any colour."""
    corners = {"top left": (0, 0), "top right": (1, 0), "bottom left": (0, 1), "bottom right": (1, 1)}
    extents = defaultdict(list)
    for seed in range(120):
        scene = training_scene(Random(seed))
        image, boxes = draw(scene, side)
        for thing, (x, y, width, height) in zip(scene.things, boxes, strict=True):
            assert 0 <= x and x + width <= side and 0 <= y and y + height <= side
            column, row = (int(2 * (x + width / 2) / side), int(2 * (y + height / 2) / side))
            if thing.place == "middle":
                assert max(abs(x + width / 2 - side / 2), abs(y + height / 2 - side / 2)) < side / 8
            else:
                assert (column, row) == corners[thing.place]
            inside = image.crop((int(x), int(y), int(x + width), int(y + height)))
            colours = [inside.getpixel((i, j)) for i in range(inside.width) for j in range(inside.height)]
            near = Counter(
                name
                for pixel in colours
                for name, rgb in RGB.items()
                if max(abs(a - b) for a, b in zip(pixel, rgb, strict=True)) < 24
            )
            assert near.most_common(1)[0][0] == thing.colour
            assert near[thing.colour] >= 0.1 * width * height
            extents[thing.shape, thing.size].append(max(width, height))
        for place in set(PLACES) - {thing.place for thing in scene.things}:
            centre = [0.2 + 0.6 * corner for corner in corners.get(place, (0.5, 0.5))]
            pixel = image.getpixel((int(centre[0] * side), int(centre[1] * side)))
            assert min(max(abs(a - b) for a, b in zip(pixel, rgb, strict=True)) for rgb in RGB.values()) > 40
    for shape in SHAPES:
        assert max(extents[shape, "small"]) < min(extents[shape, "large"])


def test_drawings_of_one_scene_are_equal_and_shapes_differ() -> None:
    scene = training_scene(Random(7))
    assert draw(scene, 64).image.tobytes() == draw(scene, 64).image.tobytes()
    pictures = set()
    for shape in SHAPES:
        thing = scene.things[0].__class__(shape, "red", "small", "middle")
        pictures.add(draw(Scene((thing,), look=3), 64).image.tobytes())
    assert len(pictures) == len(SHAPES)
