"""RandAugment: a few random operations on an image (Cubuk et al., arXiv 1909.13719), as published CCLM tunes it.

Of `ops` drawn operations (with repeats) each is carried out with probability 1/2. A magnitude of 0..10 sets the
strength, a coin the sign. Places that geometry uncovers become grey.
"""

from __future__ import annotations

import random

from PIL import Image, ImageEnhance, ImageOps

_GREY = (128, 128, 128)
_APPLIED = 0.5
_MOST = 10  # the largest magnitude

COLOUR_OPERATIONS = ("Identity", "AutoContrast", "Equalize", "Brightness", "Sharpness")
"""They leave every pixel in its place: the ones for images with boxes."""
ALL_OPERATIONS = (*COLOUR_OPERATIONS, "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


def rand_augment(
    image: Image.Image, ops: int, magnitude: int, rng: random.Random, operations: tuple[str, ...] = ALL_OPERATIONS
) -> Image.Image:
    """An RGB image -> an RGB image of the same size."""
    for _ in range(ops):
        name = rng.choice(operations)
        applied = rng.random() < _APPLIED
        sign = 1 if rng.random() < 0.5 else -1  # drawn always, so that each step takes the same number of draws
        if applied:
            image = apply(image, name, magnitude / _MOST, sign)
    return image


def apply(image: Image.Image, name: str, strength: float, sign: int) -> Image.Image:
    """One operation with `strength` in 0..1; `sign` +-1 is the direction of the geometric ones.

    Full strength: brightness and sharpness 1.9 (0 gives 0.1), shear 0.3, translation 10 px, rotation 30 degrees.
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
    """Output pixel (x, y) comes from (ax + by + c, dx + ey + f) of the input."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_GREY)
