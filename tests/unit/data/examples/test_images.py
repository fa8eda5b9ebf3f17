"""Decoding and the transforms of images."""

import io
import random
import struct
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from record_files import jpeg

from cclm.config.sources import AugmentConfig
from cclm.data.examples import images, randaugment
from cclm.data.examples import jpeg as jpeg_end
from cclm.data.stored.records import BrokenRecord
from cclm.pixels import normalised

PLAIN = AugmentConfig(horizontal_flip=0.0, rand_augment_ops=0)


def _encoded(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def test_evaluation_squeezes_the_whole_image_which_is_normalised_later() -> None:
    source = Image.open(io.BytesIO(jpeg(3, 60, 33))).convert("RGB")
    expected = np.asarray(source.resize((32, 32), Image.Resampling.BICUBIC))
    result = images.evaluation_image(jpeg(3, 60, 33), 32)
    np.testing.assert_array_equal(result, expected)
    assert result.dtype == np.uint8
    floats = normalised(torch.from_numpy(np.stack([result, 255 - result])))
    assert floats.shape == (2, 3, 32, 32) and floats.dtype == torch.float32
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    np.testing.assert_allclose(floats[0], ((expected / 255 - mean) / std).transpose(2, 0, 1), atol=1e-6)
    np.testing.assert_allclose(floats[1], ((1 - expected / 255 - mean) / std).transpose(2, 0, 1), atol=1e-6)


def test_normalising_copies_its_constants_to_a_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each copy would hold up the queue of a GPU."""
    pixels = torch.randint(256, (2, 24, 24, 3), dtype=torch.uint8)
    once = normalised(pixels)
    monkeypatch.setattr(torch, "tensor", None)
    assert torch.equal(normalised(pixels), once)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    image = Image.open(io.BytesIO(jpeg(1))).convert(mode)
    result = images.evaluation_image(_encoded(image, "TIFF" if mode == "CMYK" else "PNG"), 16)
    assert result.shape == (16, 16, 3) and result.dtype == np.uint8


@pytest.mark.parametrize("part", [0.0, 0.02, 0.3, 0.5, 0.9, 0.99])
def test_a_truncated_jpeg_is_an_error_at_any_length(part: float) -> None:
    data = jpeg(2, 300, 200)
    cut = data[: int(len(data) * part)]
    with pytest.raises(BrokenRecord, match="broken image") as caught:
        images.training_image(cut, 32, PLAIN, random.Random(0))
    assert caught.value.kind == "broken image" and len(caught.value.detail) > 5
    with pytest.raises(BrokenRecord):
        images.evaluation_image(cut, 32)


@pytest.mark.parametrize("part", [0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize(
    "options", [{}, {"restart_marker_blocks": 3}, {"subsampling": 0}, {"progressive": True}], ids=lambda o: "-".join(o)
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_nor_does_an_end_marker_make_it_whole(mode: str, options: dict[str, Any], part: float) -> None:
    """libjpeg fills the rest with grey and says nothing."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg(2, 300, 200))).convert(mode).save(buffer, "JPEG", **options)
    whole = buffer.getvalue()
    images.evaluation_image(whole, 32)
    images.evaluation_image(whole + b"\xff\xd9 a trailer", 32)
    if "progressive" in options and part > 0.8:
        return  # in the last scan
    cut = whole[: int(len(whole) * part)].rstrip(b"\xff") + b"\xff\xd9"
    Image.open(io.BytesIO(cut)).load()
    with pytest.raises(BrokenRecord, match="broken image: the JPEG data end before the image does"):
        images.evaluation_image(cut, 32)
    with pytest.raises(BrokenRecord, match="the JPEG data end before the image does"):
        images.training_image(cut + whole[len(cut) :], 32, PLAIN, random.Random(0))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_grey_image_is_whole(mode: str) -> None:
    grey = Image.new(mode, (70, 50), 128 if mode == "L" else (128, 128, 128))
    assert jpeg_end.may_be_cut(Image.open(io.BytesIO(_encoded(grey, "JPEG"))))
    assert (images.evaluation_image(_encoded(grey, "JPEG"), 16) == 128).all()


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bits_are_scaled_to_8(form: str) -> None:
    values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    data = _encoded(Image.fromarray(values), form)
    expected = np.round(values / 65535 * 255).astype(np.uint8)
    assert (images.evaluation_image(data, 64) == expected[..., None]).all()
    whole = AugmentConfig(crop_scale=(1.0, 1.0), horizontal_flip=0.0, rand_augment_ops=0)
    assert images.training_image(data, 64, whole, random.Random(0)).std() > 50


def test_grey_tiff_of_12_bits_is_scaled_to_8() -> None:
    values = np.linspace(0, 4095, 64 * 64).astype(np.uint16)
    expected = np.round(values / 4095 * 255).astype(np.uint8).reshape(64, 64, 1)
    assert expected.max() == 255
    assert (images.evaluation_image(_tiff_of_12_bits(values, 64), 64) == expected).all()


def test_a_tiff_in_which_0_is_white_is_no_negative() -> None:
    """Pillow itself turns 8 bits round, but not 16."""
    values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    stored = _encoded(Image.fromarray(65535 - values), "TIFF")
    is_black, is_white = (struct.pack("<HHIHH", 262, 3, 1, meaning, 0) for meaning in (1, 0))
    assert stored.count(is_black) == 1
    expected = np.round(values / 65535 * 255).astype(np.uint8)
    assert (images.evaluation_image(stored.replace(is_black, is_white), 64) == expected[..., None]).all()


def test_a_tiff_that_does_not_tell_its_bits_is_broken() -> None:
    image = images.open_image(_tiff_of_12_bits(np.zeros(64 * 64, np.uint16), 64))
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    del image.tag_v2[TiffImagePlugin.BITSPERSAMPLE]
    with pytest.raises(BrokenRecord, match="broken image: the TIFF does not tell the bits of its pixels; save it"):
        images.decode(image)


def _tiff_of_12_bits(values: NDArray[np.uint16], side: int) -> bytes:
    """An uncompressed grey TIFF. Two values share three bytes, the first one's high bits first."""
    pairs = values.reshape(-1, 2)
    first, second = pairs[:, 0], pairs[:, 1]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8).tobytes()
    tags = {256: side, 257: side, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: side, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = b"II" + struct.pack("<HI", 42, 8 + len(packed))
    return header + packed + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(("magic", "largest"), [("P5", 65535), ("P5", 4095), ("P2", 4095)])
def test_pgm_of_more_than_8_bits_is_scaled_to_8(magic: str, largest: int) -> None:
    values = np.linspace(0, largest, 64 * 64).astype(np.uint16)
    pixels = values.astype(">u2").tobytes() if magic == "P5" else " ".join(map(str, values)).encode()
    made = images.evaluation_image(f"{magic} 64 64 {largest}\n".encode() + pixels, 64)
    exact = (values / largest * 255).reshape(64, 64, 1)
    assert np.abs(made - exact).max() < 0.51 and made.max() == 255


def test_a_tiff_of_signed_16_bits_is_called_so() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(buffer, "TIFF", tiffinfo={TiffImagePlugin.SAMPLEFORMAT: 2})
    with pytest.raises(BrokenRecord, match="the pixels are 16-bit signed integers, whose range is unknown"):
        images.evaluation_image(buffer.getvalue(), 8)


@pytest.mark.parametrize("values", [np.int32, np.float32])
def test_values_without_a_known_range_are_refused(values: Any) -> None:
    data = _encoded(Image.fromarray(np.arange(64 * 64, dtype=values).reshape(64, 64)), "TIFF")
    for make in (
        lambda: images.evaluation_image(data, 32),
        lambda: images.training_image(data, 32, PLAIN, random.Random(0)),
    ):
        with pytest.raises(BrokenRecord, match=r"broken image: the pixels are (32-bit integers|floats), whose range"):
            make()


def test_orientation_and_transparency_are_as_published() -> None:
    """docs/data.md says so: pixels as they are stored, and the colour that lies beneath a transparent pixel."""
    turned = Image.Exif()
    turned[0x0112] = 6
    buffer = io.BytesIO()
    image = Image.new("RGB", (64, 64), "red")
    image.paste("blue", (32, 0, 64, 64))
    image.save(buffer, "PNG", exif=turned)
    result = images.evaluation_image(buffer.getvalue(), 64)
    assert result[5, 5].tolist() == result[60, 5].tolist() == [255, 0, 0]
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert (images.evaluation_image(_encoded(clear), 8) == 0).all()


def test_something_else_is_no_image() -> None:
    with pytest.raises(BrokenRecord, match="not an image"):
        images.evaluation_image(b"hello, world", 32)


def test_training_depends_on_the_generator_alone() -> None:
    data, config = jpeg(4, 90, 70), AugmentConfig()
    first = images.training_image(data, 32, config, random.Random("5 0 7"))
    assert first.shape == (32, 32, 3) and first.dtype == np.uint8
    random.seed(0), np.random.seed(0)
    np.testing.assert_array_equal(images.training_image(data, 32, config, random.Random("5 0 7")), first)
    others = [images.training_image(data, 32, config, random.Random(f"5 1 {i}")) for i in range(5)]
    assert all(np.abs(other.astype(int) - first).mean() > 1 for other in others)


def test_crops_keep_the_wanted_part_of_the_area_and_aspect() -> None:
    rng, areas = random.Random(6), []
    for _ in range(2000):
        left, top, right, bottom = images.random_crop(400, 300, (0.2, 1.0), rng)
        assert 0 <= left < right <= 400 and 0 <= top < bottom <= 300
        areas.append((right - left) * (bottom - top) / 120_000)
        assert 0.74 < (right - left) / (bottom - top) < 1.35
    assert min(areas) < 0.22 and max(areas) > 0.9 and 0.45 < np.mean(areas) < 0.6
    assert images.random_crop(1000, 10, (0.9, 1.0), rng) == (493, 0, 506, 10)  # no crop fits: the middle
    assert images.random_crop(1, 1, (0.2, 1.0), rng) == (0, 0, 1, 1)


def test_crop_and_resize_in_one_go_is_the_resized_crop() -> None:
    data = jpeg(5, 200, 160)
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    expected = whole.crop((30, 20, 130, 120)).resize((40, 40), Image.Resampling.BICUBIC)
    result = images.crop_and_resize(images.open_image(data), (30, 20, 130, 120), 40)
    inner = np.s_[2:-2, 2:-2]  # at the edge ours sees the pixels beyond the crop
    difference = np.asarray(result, dtype=int)[inner] - np.asarray(expected, dtype=int)[inner]
    assert np.abs(difference).max() <= 2


def test_a_large_jpeg_decoded_small_looks_the_same() -> None:
    data = jpeg(6, 1600, 1200)
    image = images.open_image(data)
    result = images.crop_and_resize(image, (100, 50, 1500, 1150), 64)
    assert image.size[0] < 1600  # it was drafted
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    expected = whole.resize((64, 64), Image.Resampling.BICUBIC, box=(100, 50, 1500, 1150))
    difference = np.abs(np.asarray(result, dtype=int) - np.asarray(expected, dtype=int))
    assert difference.mean() < 1.5


def test_flips_happen_half_of_the_time() -> None:
    flat = np.zeros((32, 32, 3), dtype=np.uint8)
    flat[:, :16] = 255
    data, config = _encoded(Image.fromarray(flat)), AugmentConfig(crop_scale=(1.0, 1.0), rand_augment_ops=0)
    left = [images.training_image(data, 32, config, random.Random(i))[16, 2, 0] > 128 for i in range(300)]
    assert 110 < sum(left) < 190


@pytest.mark.parametrize("name", randaugment.ALL_OPERATIONS)
def test_each_operation_changes_what_it_should(name: str) -> None:
    values = np.zeros((40, 40, 3), dtype=np.uint8)
    values[10:30, 10:30] = 100
    values[15:25, 12:20, 0] = 60
    image = Image.fromarray(values)
    result = randaugment.apply(image, name, 0.7, 1)
    assert result.size == image.size and result.mode == "RGB"
    changed = not np.array_equal(np.asarray(result), values)
    assert changed == (name != "Identity")
    opposite = np.asarray(randaugment.apply(image, name, 0.7, -1))
    assert np.array_equal(opposite, np.asarray(result)) == (name in randaugment.COLOUR_OPERATIONS)
    if name == "TranslateX":
        assert np.array_equal(np.asarray(result)[:, :33], values[:, 7:]) and (np.asarray(result)[:, 34:] == 128).all()
    if name == "Brightness":
        assert abs(int(np.asarray(result)[12, 28, 1]) - 136) <= 1


def test_colour_operations_leave_boxes_where_they_are() -> None:
    values = np.full((40, 40, 3), 30, dtype=np.uint8)
    values[10:30, 5:25] = 200
    for seed in range(40):
        result = randaugment.rand_augment(
            Image.fromarray(values), 2, 7, random.Random(seed), randaugment.COLOUR_OPERATIONS
        )
        red = np.asarray(result)[..., 0].astype(int)
        bright = red > (red.min() + red.max()) / 2
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        assert (rows[0], rows[-1], columns[0], columns[-1]) == (10, 29, 5, 24)
