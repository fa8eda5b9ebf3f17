"""Drawing a scene with Pillow: antialiased shapes on a canvas that is lit from the top left.

The light has a purpose. A window-based vision encoder has no absolute positions, and training crops and flips pictures.
The canvas is warm on the left, cool on the right, bright at the top and dark at the bottom. Every patch therefore shows
where it belongs, and "top left" stays true of what the model sees.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from random import Random
from typing import NamedTuple

from PIL import Image, ImageDraw

from cclm.demo.languages.base import PLACES
from cclm.demo.scenes import Scene, Thing

Point = tuple[float, float]
"""x and y, px from the top left corner."""


class DrawnBox(NamedTuple):
    """What a thing covers, px from the top left corner of the picture."""

    x: float
    y: float
    width: float
    height: float


class Drawing(NamedTuple):
    """A scene's picture."""

    image: Image.Image
    """RGB."""
    boxes: list[DrawnBox]
    """One for each thing of the scene."""


class _Stamp(NamedTuple):
    """A thing, ready to be laid on the canvas."""

    mask: Image.Image
    """How much of each pixel the thing covers, as grey levels."""
    x: int
    """Of the mask's left edge on the canvas, px."""
    y: int
    """Of the mask's top edge on the canvas, px."""


class _Corner(NamedTuple):
    """A corner of a shape, seen from its centre."""

    angle: float
    """Degrees, clockwise from the right."""
    distance: float
    """Radii."""


RGB = {
    "red": (214, 24, 32),
    "orange": (255, 132, 0),
    "yellow": (255, 232, 40),
    "green": (20, 140, 50),
    "blue": (28, 64, 214),
    "purple": (140, 30, 160),
    "black": (14, 14, 16),
    "white": (252, 252, 252),
}
# Lengths are fractions of the picture's side.
_CENTRES = dict(zip(PLACES, ((0.215, 0.215), (0.785, 0.215), (0.215, 0.785), (0.785, 0.785), (0.5, 0.5)), strict=True))
# Chosen so that large squares at neighbouring places just do not touch.
_RADII = {"small": 0.108, "large": 0.172}
_SHIFT = 0.01
_OVERSAMPLING = 4
"""Shapes are drawn larger by this factor and averaged down, which smooths their edges."""


def draw(scene: Scene, side: int) -> Drawing:
    """The scene's picture of `side` x `side` px."""
    rng = Random(scene.look)
    image = _canvas(side, rng.randrange(4)).copy()
    boxes = []
    for thing in scene.things:
        stamp = _stamp(thing, side, rng)
        colour = tuple(max(0, min(255, channel + rng.randint(-8, 8))) for channel in RGB[thing.colour])
        image.paste(colour, (stamp.x, stamp.y), stamp.mask)
        boxes.append(_box(stamp, side))
    return Drawing(image, boxes)


def _box(stamp: _Stamp, side: int) -> DrawnBox:
    """The box of the drawn pixels. It ends at the picture's edge, beyond which a faint last pixel may lie."""
    left, top, right, bottom = stamp.mask.getbbox() or (0, 0, *stamp.mask.size)
    left, right = max(0, stamp.x + left), min(side, stamp.x + right)
    top, bottom = max(0, stamp.y + top), min(side, stamp.y + bottom)
    return DrawnBox(float(left), float(top), float(right - left), float(bottom - top))


def jpeg(image: Image.Image) -> bytes:
    """JPEG without colour subsampling, which would blur such small drawings."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, subsampling=0)
    return buffer.getvalue()


def png(image: Image.Image) -> bytes:
    """PNG, as the pictures of NLVR2 are."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@lru_cache(maxsize=16)
def _canvas(side: int, tint: int) -> Image.Image:
    """The lit background. It has mid-tones everywhere, so that black, white and all colours stand out.

    Args:
        tint: 0 to 3, from darker to brighter.
    """
    level = 4 * (tint - 1)
    down = Image.linear_gradient("L").resize((side, side))
    across = down.transpose(Image.Transpose.ROTATE_90)
    red = Image.blend(down, across, 0.65).point([int(185 + level - 95 * value / 255) for value in range(256)])
    green = down.point([int(168 + level - 55 * value / 255) for value in range(256)])
    blue = Image.blend(down, Image.eval(across, lambda value: 255 - value), 0.65).point(
        [int(185 + level - 95 * value / 255) for value in range(256)]
    )
    return Image.merge("RGB", (red, green, blue))


def _stamp(thing: Thing, side: int, rng: Random) -> _Stamp:
    """The thing with a little variation in size, place and angle."""
    radius = _RADII[thing.size] * side * rng.uniform(0.94, 1.06)
    x, y = ((centre + rng.uniform(-_SHIFT, _SHIFT)) * side for centre in _CENTRES[thing.place])
    corner = (math.floor(x - radius) - 1, math.floor(y - radius) - 1)
    extent = 2 * math.ceil(radius) + 3
    mask = Image.new("L", (extent * _OVERSAMPLING,) * 2)
    centre = ((x - corner[0]) * _OVERSAMPLING, (y - corner[1]) * _OVERSAMPLING)
    _SHAPES[thing.shape](ImageDraw.Draw(mask), centre, radius * _OVERSAMPLING, math.radians(rng.uniform(-8, 8)))
    return _Stamp(mask.resize((extent, extent), Image.Resampling.BOX), *corner)


def _turned(centre: Point, radius: float, turn: float, corners: Iterable[_Corner]) -> list[Point]:
    """Where the corners are on the picture.

    Args:
        centre, radius: of the shape, px.
        turn: of the shape, radians.
    """
    return [
        (
            centre[0] + radius * corner.distance * math.cos(math.radians(corner.angle) + turn),
            centre[1] + radius * corner.distance * math.sin(math.radians(corner.angle) + turn),
        )
        for corner in corners
    ]


def _disc(pen: ImageDraw.ImageDraw, centre: Point, radius: float, fill: int) -> None:
    x, y = centre
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _circle(pen: ImageDraw.ImageDraw, centre: Point, radius: float, turn: float) -> None:
    _disc(pen, centre, 0.92 * radius, 255)


def _ring(pen: ImageDraw.ImageDraw, centre: Point, radius: float, turn: float) -> None:
    _disc(pen, centre, 0.98 * radius, 255)
    _disc(pen, centre, 0.52 * radius, 0)


def _moon(pen: ImageDraw.ImageDraw, centre: Point, radius: float, turn: float) -> None:
    _disc(pen, centre, radius, 255)
    bite = _turned(centre, radius, turn, [_Corner(-15, 0.55)])[0]
    _disc(pen, bite, 0.8 * radius, 0)


def _square(pen: ImageDraw.ImageDraw, centre: Point, radius: float, turn: float) -> None:
    corners = [_Corner(angle, 1.12) for angle in (45, 135, 225, 315)]
    pen.polygon(_turned(centre, radius, turn, corners), fill=255)


def _triangle(pen: ImageDraw.ImageDraw, centre: Point, radius: float, turn: float) -> None:
    corners = [_Corner(-90, 1.0), _Corner(35, 1.12), _Corner(145, 1.12)]
    pen.polygon(_turned(centre, radius, turn, corners), fill=255)


def _star(pen: ImageDraw.ImageDraw, centre: Point, radius: float, turn: float) -> None:
    corners = [_Corner(-90 + 36 * number, 0.45 if number % 2 else 1.1) for number in range(10)]
    pen.polygon(_turned(centre, radius, turn, corners), fill=255)


def _cross(pen: ImageDraw.ImageDraw, centre: Point, radius: float, turn: float) -> None:
    edge = math.degrees(math.atan2(0.28, 1.0))
    reach = math.hypot(0.28, 1.0)
    corners = []
    for arm in (0, 90, 180, 270):
        corners += [_Corner(arm - edge, reach), _Corner(arm + edge, reach), _Corner(arm + 45, 0.28 * math.sqrt(2))]
    pen.polygon(_turned(centre, radius, turn, corners), fill=255)


def _heart(pen: ImageDraw.ImageDraw, centre: Point, radius: float, turn: float) -> None:
    corners = []
    for step in range(48):
        angle = 2 * math.pi * step / 48
        across = 16 * math.sin(angle) ** 3
        up = 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)
        across, down = across / 15.5, -(up + 2.5) / 15.5
        corners.append(_Corner(math.degrees(math.atan2(down, across)), math.hypot(down, across)))
    pen.polygon(_turned(centre, radius, turn, corners), fill=255)


_SHAPES: dict[str, Callable[[ImageDraw.ImageDraw, Point, float, float], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "ring": _ring,
    "moon": _moon,
}
