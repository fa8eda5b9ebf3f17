"""RandAugment: a few random operations on an image (Cubuk et al., arXiv 1909.13719), as published CCLM tunes it.

`ops` operations are drawn, with repeats, and each is applied with probability 1/2. A magnitude of 0..10 sets the
strength of all, a coin the direction of each. Pixels that a geometric operation uncovers become grey.
"""

from __future__ import annotations

import random

from PIL import Image, ImageEnhance, ImageOps

_GREY = (128, 128, 128)
_APPLY_PROBABILITY = 0.5
_MAX_MAGNITUDE = 10

COLOUR_OPERATIONS = ("Identity", "AutoContrast", "Equalize", "Brightness", "Sharpness")
"""Operations that leave every pixel in its place, and so may be used on images with boxes."""
ALL_OPERATIONS = (*COLOUR_OPERATIONS, "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


def rand_augment(
    image: Image.Image, ops: int, magnitude: int, rng: random.Random, operations: tuple[str, ...] = ALL_OPERATIONS
) -> Image.Image:
    """Apply `ops` of `operations`, drawn at random, to an RGB image; the size stays."""
    for _ in range(ops):
        name = rng.choice(operations)
        applied = rng.random() < _APPLY_PROBABILITY
        sign = 1 if rng.random() < 0.5 else -1  # always drawn, so that every operation takes the same number of draws
        if applied:
            image = apply(image, name, magnitude / _MAX_MAGNITUDE, sign)
    return image


def apply(image: Image.Image, name: str, strength: float, sign: int) -> Image.Image:
    """Apply one operation to an RGB image.

    Args:
        name: of `ALL_OPERATIONS`.
        strength: in 0..1. Full strength is a brightness or sharpness of 1.9 (strength 0 is 0.1), a shear of 0.3, a
            translation by 10 px, a rotation by 30 degrees.
        sign: 1 or -1, the direction of the geometric operations.
    """
    match name:
        case "Identity":
            return image
        case "AutoContrast":
            return ImageOps.autocontrast(image)
        case "Equalize":
            return ImageOps.equalize(image)
        case "Brightness":
            return ImageEnhance.Brightness(image).enhance(0.1 + 1.8 * strength)
        case "Sharpness":
            return ImageEnhance.Sharpness(image).enhance(0.1 + 1.8 * strength)
        case "ShearX":
            return _affine(image, (1, sign * 0.3 * strength, 0, 0, 1, 0))
        case "ShearY":
            return _affine(image, (1, 0, 0, sign * 0.3 * strength, 1, 0))
        case "TranslateX":
            return _affine(image, (1, 0, sign * 10 * strength, 0, 1, 0))
        case "TranslateY":
            return _affine(image, (1, 0, 0, 0, 1, sign * 10 * strength))
        case "Rotate":
            return image.rotate(sign * 30 * strength, Image.Resampling.BILINEAR, fillcolor=_GREY)
    raise ValueError(f"unknown operation {name}")


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Move pixels: output pixel (x, y) comes from (ax + by + c, dx + ey + f) of the input, `matrix` is a..f."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_GREY)
