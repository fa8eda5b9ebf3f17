"""Drawing a scene with Pillow: antialiased shapes on a canvas that is lit from the top left.

The light has a purpose: a window-based vision encoder has no absolute positions, and training crops and flips pictures.
A canvas that is warm on the left, cool on the right, bright at the top and dark at the bottom shows in every patch
where it belongs, so "top left" stays true of what the model sees.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import lru_cache
from random import Random

from PIL import Image, ImageDraw

from cclm.demo.languages.base import PLACES
from cclm.demo.scenes import Scene, Thing

Box = tuple[float, float, float, float]
Draw = ImageDraw.ImageDraw
Point = tuple[float, float]

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
# Everything below is a fraction of the picture's side.
_CENTRES = dict(zip(PLACES, ((0.215, 0.215), (0.785, 0.215), (0.215, 0.785), (0.785, 0.785), (0.5, 0.5)), strict=True))
# Large squares at neighbouring places just do not touch.
_RADII = {"small": 0.108, "large": 0.172}
_SHIFT = 0.01
_OVERSAMPLING = 4


def draw(scene: Scene, side: int) -> tuple[Image.Image, list[Box]]:
    """The picture (side x side px, RGB) and each thing's box (x, y, width, height in px, from the top left corner)."""
    rng = Random(scene.look)
    image = _canvas(side, rng.randrange(4)).copy()
    boxes = []
    for thing in scene.things:
        mask, (x, y) = _stamp(thing, side, rng)
        colour = tuple(max(0, min(255, channel + rng.randint(-8, 8))) for channel in RGB[thing.colour])
        image.paste(colour, (x, y), mask)
        boxes.append(_box(mask, x, y, side))
    return image, boxes


def _box(mask: Image.Image, x: int, y: int, side: int) -> Box:
    """The drawn pixels' box, without the faint last pixel where it would leave the picture."""
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    left, top, right, bottom = max(0, x + left), max(0, y + top), min(side, x + right), min(side, y + bottom)
    return float(left), float(top), float(right - left), float(bottom - top)


def jpeg(image: Image.Image) -> bytes:
    """JPEG without colour subsampling, which would smear drawings this small."""
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
    """Mid-tones everywhere, so that black, white and all colours stand out."""
    level = 4 * (tint - 1)
    down = Image.linear_gradient("L").resize((side, side))
    across = down.transpose(Image.Transpose.ROTATE_90)
    red = Image.blend(down, across, 0.65).point([int(185 + level - 95 * value / 255) for value in range(256)])
    green = down.point([int(168 + level - 55 * value / 255) for value in range(256)])
    blue = Image.blend(down, Image.eval(across, lambda value: 255 - value), 0.65).point(
        [int(185 + level - 95 * value / 255) for value in range(256)]
    )
    return Image.merge("RGB", (red, green, blue))


def _stamp(thing: Thing, side: int, rng: Random) -> tuple[Image.Image, tuple[int, int]]:
    """The thing's coverage (grey levels, drawn large and averaged down) and where its corner goes."""
    radius = _RADII[thing.size] * side * rng.uniform(0.94, 1.06)
    x, y = ((centre + rng.uniform(-_SHIFT, _SHIFT)) * side for centre in _CENTRES[thing.place])
    corner = (math.floor(x - radius) - 1, math.floor(y - radius) - 1)
    extent = 2 * math.ceil(radius) + 3
    mask = Image.new("L", (extent * _OVERSAMPLING,) * 2)
    centre = ((x - corner[0]) * _OVERSAMPLING, (y - corner[1]) * _OVERSAMPLING)
    _SHAPES[thing.shape](ImageDraw.Draw(mask), centre, radius * _OVERSAMPLING, math.radians(rng.uniform(-8, 8)))
    return mask.resize((extent, extent), Image.Resampling.BOX), corner


def _turned(centre: Point, radius: float, turn: float, polar: list[Point]) -> list[Point]:
    """Corners given as (angle in degrees, distance in radii), turned and moved to the centre."""
    return [
        (
            centre[0] + radius * distance * math.cos(math.radians(angle) + turn),
            centre[1] + radius * distance * math.sin(math.radians(angle) + turn),
        )
        for angle, distance in polar
    ]


def _disc(pen: Draw, centre: Point, radius: float, fill: int) -> None:
    x, y = centre
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _circle(pen: Draw, centre: Point, radius: float, turn: float) -> None:
    _disc(pen, centre, 0.92 * radius, 255)


def _ring(pen: Draw, centre: Point, radius: float, turn: float) -> None:
    _disc(pen, centre, 0.98 * radius, 255)
    _disc(pen, centre, 0.52 * radius, 0)


def _moon(pen: Draw, centre: Point, radius: float, turn: float) -> None:
    _disc(pen, centre, radius, 255)
    bite = _turned(centre, radius, turn, [(-15, 0.55)])[0]
    _disc(pen, bite, 0.8 * radius, 0)


def _square(pen: Draw, centre: Point, radius: float, turn: float) -> None:
    pen.polygon(_turned(centre, radius, turn, [(45, 1.12), (135, 1.12), (225, 1.12), (315, 1.12)]), fill=255)


def _triangle(pen: Draw, centre: Point, radius: float, turn: float) -> None:
    pen.polygon(_turned(centre, radius, turn, [(-90, 1.0), (35, 1.12), (145, 1.12)]), fill=255)


def _star(pen: Draw, centre: Point, radius: float, turn: float) -> None:
    corners = [(-90 + 36 * corner, 0.45 if corner % 2 else 1.1) for corner in range(10)]
    pen.polygon(_turned(centre, radius, turn, corners), fill=255)


def _cross(pen: Draw, centre: Point, radius: float, turn: float) -> None:
    edge = math.degrees(math.atan2(0.28, 1.0))
    reach = math.hypot(0.28, 1.0)
    corners = []
    for arm in (0, 90, 180, 270):
        corners += [(arm - edge, reach), (arm + edge, reach), (arm + 45, 0.28 * math.sqrt(2))]
    pen.polygon(_turned(centre, radius, turn, corners), fill=255)


def _heart(pen: Draw, centre: Point, radius: float, turn: float) -> None:
    corners = []
    for step in range(48):
        angle = 2 * math.pi * step / 48
        across = 16 * math.sin(angle) ** 3
        up = 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)
        across, down = across / 15.5, -(up + 2.5) / 15.5
        corners.append((math.degrees(math.atan2(down, across)), math.hypot(down, across)))
    pen.polygon(_turned(centre, radius, turn, corners), fill=255)


_SHAPES: dict[str, Callable[[Draw, Point, float, float], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "ring": _ring,
    "moon": _moon,
}
