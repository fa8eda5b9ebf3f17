"""Images: decoding, the transform of training and that of evaluation.

R is the side of the model's square input, px. A transformed image is uint8 (R, R, 3), RGB. That is a quarter of the
memory of the floats that the model computes with; `cclm/pixels.py` makes those.
"""

from __future__ import annotations

import io
import math
import random

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from cclm.config.sources import AugmentConfig
from cclm.data.examples import jpeg
from cclm.data.examples.randaugment import rand_augment
from cclm.data.examples.regions import Crop
from cclm.data.stored.records import BROKEN_IMAGE, BrokenRecord

Pixels = NDArray[np.uint8]
"""(R, R, 3), RGB: an image as the model takes it."""

_JPEG_FORMATS = ("JPEG", "MPO")
_UNBOUNDED_MODES = {"I": "32-bit integers", "F": "floats"}  # modes of Pillow
_LARGEST_OF_16_BITS = 65535
_MIN_ASPECT, _MAX_ASPECT = 3 / 4, 4 / 3  # of random crops
_CROP_ATTEMPTS = 10
_MIN_OVERSAMPLING = 2  # a JPEG that is decoded smaller keeps at least so many times the side of the result


def open_image(data: bytes) -> Image.Image:
    """Read the header of an encoded image. Nothing is decoded yet. Raises BrokenRecord."""
    try:
        return Image.open(io.BytesIO(data))
    except Exception as error:  # Pillow's readers raise nearly any kind of error at damaged files
        raise BrokenRecord(BROKEN_IMAGE, _reason(error)) from None


def decode(image: Image.Image) -> Image.Image:
    """All pixels as RGB. A file that ends too early is an error, never half an image.

    docs/data.md says how images that are not RGB, turned or transparent are treated (section "Images and weights").

    Raises:
        BrokenRecord: the file is damaged, ends early, or holds values that have no known range.
    """
    source = image.fp if isinstance(image, ImageFile) and image.format in _JPEG_FORMATS else None
    try:
        image.load()
        pixels = image if image.mode == "RGB" else _to_rgb(image)
        is_cut = isinstance(source, io.BytesIO) and jpeg.may_be_cut(image) and jpeg.is_cut(source.getvalue())
    except Exception as error:  # as above
        raise BrokenRecord(BROKEN_IMAGE, _reason(error)) from None
    if is_cut:
        raise BrokenRecord(BROKEN_IMAGE, "the JPEG data end before the image does, with an end marker")
    return pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    """Raises ValueError where the range of the pixels is unknown."""
    # Pillow's own conversion would cut values off at 255.
    if image.mode.startswith("I;16"):
        return _scaled_to_rgb(image, _largest_value(image))
    if image.mode == "I" and image.format == "PPM":  # a PGM of more than 8 bits, which Pillow scales to 16
        return _scaled_to_rgb(image, _LARGEST_OF_16_BITS)
    if image.mode in _UNBOUNDED_MODES:
        kind = _UNBOUNDED_MODES[image.mode]
        if image.mode == "I" and _tiff_bits(image) == 16:
            kind = "16-bit signed integers"
        raise ValueError(f"the pixels are {kind}, whose range is unknown; save it with 8 bits")
    return image.convert("RGB")


def _scaled_to_rgb(image: Image.Image, largest: int) -> Image.Image:
    """A grey image whose values are 0 (black) to `largest` (white); in some TIFFs it is the other way round."""
    values = np.asarray(image).astype(np.uint32)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0:
        values = largest - values  # Pillow does this for 8 bits only
    return Image.fromarray(((values * 255 + largest // 2) // largest).astype(np.uint8)).convert("RGB")


def _largest_value(image: Image.Image) -> int:
    """The value of white in an image of Pillow's 16-bit modes. Raises ValueError if the file does not tell it."""
    if image.format != "TIFF":
        return _LARGEST_OF_16_BITS  # Pillow scales JPEG 2000 of 9 to 15 bits; the other formats have 16
    bits = _tiff_bits(image)
    if bits is None or not 8 < bits <= 16:
        raise ValueError("the TIFF does not tell the bits of its pixels; save it with 8 bits")
    return (1 << bits) - 1


def _tiff_bits(image: Image.Image) -> int | None:
    """The bits of one value; None for other formats than TIFF, or where the file does not tell one number."""
    if not isinstance(image, TiffImageFile):
        return None
    bits = image.tag_v2.get(BITSPERSAMPLE)
    return bits[0] if isinstance(bits, tuple) and bits and isinstance(bits[0], int) else None


def crop_and_resize(image: Image.Image, crop: Crop, side: int) -> Image.Image:
    """Decode an image and resize a crop of it to RGB (side, side), bicubic. Raises BrokenRecord.

    A large JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that leaves enough pixels.
    """
    width, height = image.size
    left, top, right, bottom = crop
    scale = min(right - left, bottom - top) / (_MIN_OVERSAMPLING * side)
    if scale >= 2:
        image.draft("RGB", (math.ceil(width / scale), math.ceil(height / scale)))
    pixels = decode(image)
    across, down = pixels.width / width, pixels.height / height  # both 1 unless decoded below its size
    scaled = (left * across, top * down, min(right * across, pixels.width), min(bottom * down, pixels.height))
    return pixels.resize((side, side), Image.Resampling.BICUBIC, box=scaled)


def random_crop(width: int, height: int, scale: tuple[float, float], rng: random.Random) -> Crop:
    """A crop of an aspect from 3/4 to 4/3 that keeps between `scale[0]` and `scale[1]` of the image's area.

    If no drawn crop fits into the image, it is the largest one of an allowed aspect around the middle.
    """
    low, high = math.log(_MIN_ASPECT), math.log(_MAX_ASPECT)
    for _ in range(_CROP_ATTEMPTS):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return Crop(left, top, left + w, top + h)
    aspect = min(max(width / height, _MIN_ASPECT), _MAX_ASPECT)
    w, h = min(width, max(1, round(height * aspect))), min(height, max(1, round(width / aspect)))
    left, top = (width - w) // 2, (height - h) // 2
    return Crop(left, top, left + w, top + h)


def training_image(data: bytes, side: int, config: AugmentConfig, rng: random.Random) -> Pixels:
    """Decode an image, crop it at random, flip it by chance, augment it: uint8 (R, R, 3). Raises BrokenRecord."""
    image = open_image(data)
    crop = random_crop(*image.size, config.crop_scale, rng)
    pixels = crop_and_resize(image, crop, side)
    if rng.random() < config.horizontal_flip:
        pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(rand_augment(pixels, config.rand_augment_ops, config.rand_augment_magnitude, rng))


def evaluation_image(data: bytes, side: int) -> Pixels:
    """Decode an image and squeeze the whole of it to a square: uint8 (R, R, 3). Raises BrokenRecord."""
    pixels = decode(open_image(data))
    return np.asarray(pixels.resize((side, side), Image.Resampling.BICUBIC))


def _reason(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return "the data are not an image of a known format" if "cannot identify image file" in text else text
