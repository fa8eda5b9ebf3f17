"""Boxes in images: arithmetic of numbers alone, no pixels. See docs/method.md, section "Input pipeline"."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable
from typing import NamedTuple


class Box(NamedTuple):
    """A box in an image, px."""

    x: float
    """x and y are those of the upper left corner."""
    y: float
    width: float
    height: float


class Crop(NamedTuple):
    """A rectangle of whole pixels; `right` and `bottom` lie outside of it."""

    left: int
    top: int
    right: int
    bottom: int


class BoxTarget(NamedTuple):
    """A box as the box head predicts it: fractions of the image's side."""

    center_x: float
    center_y: float
    width: float
    height: float


WHOLE_IMAGE = BoxTarget(0.5, 0.5, 1.0, 1.0)
"""The target of a text about the whole image."""

_TOLERANCE = 1.0  # px by which a box may reach over the edge: some annotation tools count pixels from 0, some from 1

# Words for left and right. They also count inside longer words, as in the published English rule: an image that is
# not mirrored although it might be costs nothing.
_SIDES = re.compile(
    r"left|right|\blink|rechts|rechte|gauche|droit|izquierd|derech|esquerd|direit|sinistr|destr|kiri|kanan|"
    r"\bsol|\bsağ|лев|прав|\bv?lev[oýáé]|\bv?prav[oýáé]|左|右|왼|오른|يسار|يمين|أيسر|أيمن|يسرى|يمنى|"
    r"kushoto|kulia|இடது|இடப்|வலது|வலப்"
)


def inside_image(box: tuple[float, float, float, float], width: int, height: int) -> Box | None:
    """A box (x, y, width, height) of a record, cut to the image; None if it is empty or reaches out by over 1 px."""
    x, y, w, h = box
    if w <= 0 or h <= 0 or min(x, y) < -_TOLERANCE or x + w > width + _TOLERANCE or y + h > height + _TOLERANCE:
        return None
    return clip(Box(x, y, w, h), Crop(0, 0, width, height))


def clip(box: Box, crop: Crop) -> Box | None:
    """The part of a box inside a crop, in the coordinates of the image; None if there is none."""
    x, y, w, h = box
    crop_left, crop_top, crop_right, crop_bottom = crop
    left, top = max(x, crop_left), max(y, crop_top)
    right, bottom = min(x + w, crop_right), min(y + h, crop_bottom)
    return Box(left, top, right - left, bottom - top) if right > left and bottom > top else None


def random_crop_around(box: Box | None, width: int, height: int, rng: random.Random) -> Crop:
    """A crop that contains `box`, which lies inside the image. Each edge is uniform over the places left to it.

    Without a box the crop contains the middle of the image.
    """
    x, y, w, h = box if box is not None else Box(width / 2, height / 2, 0.0, 0.0)
    left, top = rng.randint(0, math.floor(x)), rng.randint(0, math.floor(y))
    right = rng.randint(min(max(math.ceil(x + w), left + 1), width), width)
    bottom = rng.randint(min(max(math.ceil(y + h), top + 1), height), height)
    return Crop(left, top, right, bottom)


def box_in_crop(box: Box, crop: Crop, min_inside: float) -> Box | None:
    """The part of a box inside the crop, in the crop's coordinates.

    None if it is less than `min_inside` of the box's area.
    """
    part = clip(box, crop)
    _, _, box_width, box_height = box
    if part is None or part.width * part.height < min_inside * box_width * box_height * (1 - 1e-9):
        return None
    left, top, _, _ = crop
    return Box(part.x - left, part.y - top, part.width, part.height)


def flip(box: Box, width: float) -> Box:
    """The box in the mirrored image (left becomes right), which is `width` px wide."""
    x, y, w, h = box
    return Box(width - x - w, y, w, h)


def scale(box: Box, across: float, down: float) -> Box:
    """Multiply x and width by `across`, y and height by `down`."""
    x, y, w, h = box
    return Box(x * across, y * down, w * across, h * down)


def target(box: Box, side: int) -> BoxTarget:
    """What the box head has to predict for a box of a square image of `side` px."""
    x, y, w, h = box
    return BoxTarget((x + w / 2) / side, (y + h / 2) / side, w / side, h / side)


def patches_of(box: Box, side: int, stride: int) -> list[bool]:
    """Which of an image's 1 + P positions a text about the box sees: 0 ([CLS]) and each patch that the box touches.

    The image has `side` px and a grid of P = (side / stride)^2 patches, listed row by row. At least one patch is seen.
    """
    grid = side // stride
    x, y, w, h = box
    columns, rows = _cells(x, x + w, stride, grid), _cells(y, y + h, stride, grid)
    return [True, *(row in rows and column in columns for row in range(grid) for column in range(grid))]


def _cells(start: float, end: float, stride: int, grid: int) -> range:
    # An overlap of a millionth of a patch comes from rounding and is no contact.
    first = min(math.floor(start / stride + 1e-6), grid - 1)
    return range(first, max(first + 1, min(math.ceil(end / stride - 1e-6), grid)))


def says_left_or_right(texts: Iterable[str]) -> bool:
    """True if a text may name a side of the image, in any of the languages known here."""
    return any(_SIDES.search(text.lower()) for text in texts)
