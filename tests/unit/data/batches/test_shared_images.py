"""Memory in which loader processes hand over images."""

import numpy as np
import pytest
import torch

from cclm.data.batches.shared_images import PREFETCH, SharedImages


def _images(part: int, count: int) -> list[np.ndarray]:
    return [np.full((4, 4, 3), 10 * part + i, dtype=np.uint8) for i in range(count)]


def test_parts_are_joined_and_stay_as_they_were_taken() -> None:
    shared = SharedImages(2, 3, 4)
    places = [shared.write(0, 0, _images(1, 3)), shared.write(1, 0, _images(2, 2))]
    taken = shared.take(places, pin=False)
    expected = torch.from_numpy(np.stack(_images(1, 3) + _images(2, 2)))
    assert torch.equal(taken, expected)
    for number in range(1, 9):
        shared.write(0, number, _images(number, 3))
    assert torch.equal(taken, expected)


def test_as_many_parts_as_are_asked_for_ahead_lie_side_by_side() -> None:
    shared = SharedImages(1, 1, 4)
    places = [shared.write(0, number, _images(number, 1)) for number in range(PREFETCH + 1)]
    for number, place in enumerate(places):
        assert shared.take([place], pin=False)[0, 0, 0, 0] == 10 * number


def test_a_part_that_another_overwrote_is_no_batch() -> None:
    shared = SharedImages(1, 1, 4)
    first = shared.write(0, 0, _images(0, 1))
    for number in range(1, 9):
        shared.write(0, number, _images(number, 1))
    with pytest.raises(AssertionError, match="part 0 of loader process 0 was taken too late"):
        shared.take([first], pin=False)
