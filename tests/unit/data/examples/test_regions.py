"""Geometry of boxes."""

import random
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cclm.data.examples import regions

GOLDEN = Path(__file__).parents[3] / "golden"


def test_golden_region_masks_follow_from_their_boxes() -> None:
    golden = load_file(GOLDEN / "inputs.safetensors")
    for box, atts in zip(golden["target_bbox"].tolist(), golden["region_image_atts"].tolist(), strict=True):
        cx, cy, w, h = (value * 128 for value in box)
        assert regions.patches_of((cx - w / 2, cy - h / 2, w, h), 128, 32) == [bool(att) for att in atts]


def test_patches_are_those_that_the_box_touches() -> None:
    rng = random.Random(1)
    for _ in range(500):
        x, y = rng.uniform(0, 120), rng.uniform(0, 120)
        box = (x, y, rng.uniform(0.5, 128 - x), rng.uniform(0.5, 128 - y))
        admitted = regions.patches_of(box, 128, 32)
        assert len(admitted) == 17 and admitted[0]
        for row in range(4):
            for column in range(4):
                cell = (32 * column, 32 * row, 32 * column + 32, 32 * row + 32)
                assert admitted[1 + 4 * row + column] == (regions.clip(box, cell) is not None)


def test_edges_between_patches_do_not_count_as_contact() -> None:
    one = [True] + [i == 5 for i in range(16)]
    assert regions.patches_of((32, 32, 32, 32), 128, 32) == one
    assert regions.patches_of((32, 32, 32.0000001, 31.9999999), 128, 32) == one
    assert regions.patches_of((127.99999999, 128, 0.000001, 0), 128, 32)[16]  # never none


def test_a_crop_contains_its_box_and_reaches_all_edges() -> None:
    rng, crops = random.Random(2), []
    for _ in range(2000):
        x, y = rng.uniform(0, 50), rng.uniform(0, 30)
        box = (x, y, rng.uniform(0.2, 60 - x), rng.uniform(0.2, 40 - y))
        left, top, right, bottom = regions.random_crop_around(box, 60, 40, rng)
        assert 0 <= left <= box[0] and 0 <= top <= box[1]
        assert box[0] + box[2] <= right <= 60 and box[1] + box[3] <= bottom <= 40
        assert right > left and bottom > top
        crops.append((left, top, right, bottom))
    assert {crop[0] for crop in crops} >= set(range(20)) and {crop[2] for crop in crops} >= set(range(40, 61))
    assert regions.random_crop_around(None, 1, 1, rng) == (0, 0, 1, 1)
    assert regions.random_crop_around((0, 0, 60, 40), 60, 40, rng) == (0, 0, 60, 40)


@pytest.mark.parametrize(
    "box, kept",
    [
        ((10, 10, 20, 20), (10, 10, 20, 20)),
        ((-0.5, 0, 20, 20), (0, 0, 19.5, 20)),  # off by less than 1 px: cut
        ((40, 20, 20.9, 20), (40, 20, 20, 20)),
        ((50, 20, 12, 10), None),
        ((-3, 0, 20, 20), None),
        ((100, 100, 5, 5), None),
        ((10, 10, 0, 5), None),
        ((10, 10, 5, -5), None),
    ],
)
def test_boxes_outside_the_image_are_refused(box: regions.Box, kept: regions.Box | None) -> None:
    result = regions.inside_image(box, 60, 40)
    assert result == (None if kept is None else pytest.approx(kept))


def test_boxes_that_lose_too_much_are_dropped() -> None:
    crop = (10, 10, 50, 30)
    assert regions.box_in_crop((0, 10, 20, 10), crop, 0.5) == (0, 0, 10, 10)  # exactly half stays
    assert regions.box_in_crop((0, 10, 19, 10), crop, 0.5) is None
    assert regions.box_in_crop((12, 12, 8, 8), crop, 1.0) == (2, 2, 8, 8)
    assert regions.box_in_crop((60, 60, 5, 5), crop, 0.0) is None


def test_flip_scale_and_target() -> None:
    box = (2.0, 3.0, 10.0, 4.0)
    assert regions.flip(box, 40) == (28.0, 3.0, 10.0, 4.0)
    assert regions.flip(regions.flip(box, 40), 40) == box
    assert regions.scale(box, 2, 0.5) == (4.0, 1.5, 20.0, 2.0)
    assert regions.target((0, 0, 32, 32), 32) == regions.WHOLE_IMAGE
    assert regions.target((8, 0, 16, 8), 32) == (0.5, 0.125, 0.5, 0.25)


@pytest.mark.parametrize(
    "text",
    [
        "the Left hand",
        "oben links",
        "in der linken Ecke",
        "à droite",
        "a la izquierda",
        "kiri",
        "sağda",
        "слева",
        "вправо",
        "左上",
        "في الزاوية اليسرى",
    ],
)
def test_sides_are_recognised_in_many_languages(text: str) -> None:
    assert regions.says_left_or_right(["nothing here", text])
    assert not regions.says_left_or_right(["a dog", "ein Hund", "une voiture", "кошка", "犬", "aynı insole"])
