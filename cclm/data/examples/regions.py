"""Boxes in images: pure arithmetic of numbers, no pixels.

A box is (x, y, width, height) in px with (x, y) its upper left corner; a crop is (left, top, right, bottom).
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable

Box = tuple[float, float, float, float]
Crop = tuple[int, int, int, int]

WHOLE_IMAGE: Box = (0.5, 0.5, 1.0, 1.0)
"""The target of a text about all of the image: centre and size as parts of its side."""

_TOLERANCE = 1.0  # px by which boxes may reach over the edge: annotation tools count pixels from 0 or from 1

# Words for left and right. Parts of words count too, as published does in English: a flip too few costs nothing.
_SIDES = re.compile(
    r"left|right|\blink|rechts|rechte|gauche|droit|izquierd|derech|esquerd|direit|sinistr|destr|kiri|kanan|"
    r"\bsol|\bsağ|лев|прав|\bv?lev[oýáé]|\bv?prav[oýáé]|左|右|왼|오른|يسار|يمين|أيسر|أيمن|يسرى|يمنى|"
    r"kushoto|kulia|இடது|இடப்|வலது|வலப்"
)


def inside_image(box: Box, width: int, height: int) -> Box | None:
    """The box cut to the image, or None if it is empty or reaches out by more than 1 px."""
    x, y, w, h = box
    if w <= 0 or h <= 0 or min(x, y) < -_TOLERANCE or x + w > width + _TOLERANCE or y + h > height + _TOLERANCE:
        return None
    return clip(box, (0, 0, width, height))


def clip(box: Box, crop: Crop) -> Box | None:
    """The part of a box inside a crop, in the coordinates of the image; None if there is none."""
    x, y, w, h = box
    left, top = max(x, crop[0]), max(y, crop[1])
    right, bottom = min(x + w, crop[2]), min(y + h, crop[3])
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None


def random_crop_around(box: Box | None, width: int, height: int, rng: random.Random) -> Crop:
    """A crop of whole pixels that contains `box` (inside the image); each edge is uniform where it may lie.

    Without a box it contains the middle of the image.
    """
    x, y, w, h = box if box is not None else (width / 2, height / 2, 0.0, 0.0)
    left, top = rng.randint(0, math.floor(x)), rng.randint(0, math.floor(y))
    right = rng.randint(min(max(math.ceil(x + w), left + 1), width), width)
    bottom = rng.randint(min(max(math.ceil(y + h), top + 1), height), height)
    return left, top, right, bottom


def box_in_crop(box: Box, crop: Crop, min_inside: float) -> Box | None:
    """The part of a box inside the crop, in the crop's coordinates; None if less than `min_inside` of it is left."""
    part = clip(box, crop)
    if part is None or part[2] * part[3] < min_inside * box[2] * box[3] * (1 - 1e-9):
        return None
    return part[0] - crop[0], part[1] - crop[1], part[2], part[3]


def flip(box: Box, width: float) -> Box:
    """Mirror left and right in an image of `width` px."""
    x, y, w, h = box
    return width - x - w, y, w, h


def scale(box: Box, across: float, down: float) -> Box:
    """Multiply x and width by `across`, y and height by `down`."""
    x, y, w, h = box
    return x * across, y * down, w * across, h * down


def target(box: Box, side: int) -> Box:
    """Centre x, centre y, width, height as parts of the image's side, the form that the box head predicts."""
    x, y, w, h = box
    return (x + w / 2) / side, (y + h / 2) / side, w / side, h / side


def patches_of(box: Box, side: int, stride: int) -> list[bool]:
    """Which of the 1 + P positions of an image a box admits: 0 ([CLS]) and each patch that it touches.

    The image has `side` px and a grid of (side / stride)^2 patches, row by row. At least one patch is admitted.
    """
    grid = side // stride
    x, y, w, h = box
    columns, rows = _cells(x, x + w, stride, grid), _cells(y, y + h, stride, grid)
    return [True, *(row in rows and column in columns for row in range(grid) for column in range(grid))]


def _cells(start: float, end: float, stride: int, grid: int) -> range:
    # A millionth of a patch is rounding, not contact.
    first = min(math.floor(start / stride + 1e-6), grid - 1)
    return range(first, max(first + 1, min(math.ceil(end / stride - 1e-6), grid)))


def says_left_or_right(texts: Iterable[str]) -> bool:
    """True if a text may tell the sides of the image apart, in any of the languages known here."""
    return any(_SIDES.search(text.lower()) for text in texts)
