"""A record becomes an example of pre-training: captions drawn; text cleaned, tokenized and masked; image cropped.

All random numbers of an example come from (seed, source, epoch, number of the record), so it does not matter which
process makes it, or when.

The text is made first and the image is decoded later, on request (`UndecodedExample`), for two reasons. It is cheaper
to find out from the text that a record is broken. And decoding an image empties the processor's caches: tokenizing a
text takes several times as long right after it as after tokenizing another text.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image

from cclm.config.pretrain import ObjectiveConfig, PretrainConfig
from cclm.config.sources import AugmentConfig, ImageTextSource, MaskingConfig, ParallelTextSource, RegionSource
from cclm.data.cleaning import EmptyTextError, clean_caption
from cclm.data.examples import images, regions
from cclm.data.examples.draws import in_random_order
from cclm.data.examples.images import Pixels
from cclm.data.examples.masking import MaskedIds, mask
from cclm.data.examples.randaugment import COLOUR_OPERATIONS, rand_augment
from cclm.data.examples.tokenizer import Tokenizer
from cclm.data.stored import records
from cclm.data.stored.formats import Format
from cclm.data.stored.records import ANY_LANGUAGE, BrokenRecord, Captions

SOURCES = ("images", "regions", "images_mono", "texts")
"""The sources of pre-training, attributes of `DataConfig`. The index of a source in this tuple numbers its random
stream, so the order must not change."""


@dataclass(frozen=True)
class TextExample:
    """One text, as it is and masked."""

    ids: list[int]
    """`<s> ... </s>`"""
    masked: MaskedIds


@dataclass(frozen=True)
class ImageTextExample:
    """The text side of an image: one caption, or two."""

    text: TextExample
    second: list[int] | None
    """Ids of the second caption (`sample_two_captions`)."""


@dataclass(frozen=True)
class RegionText:
    """A text about a box in an image, or about the whole image."""

    text: TextExample
    patches: list[bool]
    """1 + P entries: the positions of the image that the text sees."""
    box: regions.BoxTarget
    is_whole_image: bool


@dataclass(frozen=True)
class RegionExample:
    """The texts of an image, at least one."""

    texts: list[RegionText]


@dataclass(frozen=True)
class ParallelTextExample:
    """A text and its translation."""

    source: TextExample
    target: list[int]
    """Ids of the translation."""
    joined: MaskedIds | None
    """With translation language modelling (TLM), both as one masked sequence; None without."""


Example = ImageTextExample | RegionExample | ParallelTextExample


@dataclass(frozen=True)
class UndecodedExample:
    """An example whose image is still encoded."""

    example: Example
    decode: Callable[[], Pixels] | None
    """Gives the image, (R, R, 3) uint8, RGB; to be called once, since it draws random numbers. Raises BrokenRecord.
    None for an example without an image."""


ExampleBuilder = Callable[[bytes | memoryview, random.Random], UndecodedExample]
"""(bytes of a record, random numbers of the example) -> the example. Raises BrokenRecord."""


def example_rng(seed: int, source: int, epoch: int, number: int) -> random.Random:
    """The random numbers of one record in one epoch; `source` is the number of the source's random stream."""
    return random.Random((((seed << 8) + source << 32) + epoch << 64) + number)


def example_builder(
    kind: str, config: PretrainConfig, tokenizer: Tokenizer, format: Format = Format.LINES
) -> ExampleBuilder:
    """The function that makes an example of source `kind`, which the config must have, from the bytes of a record."""
    data, side = config.data, config.model.vision.image_size
    if kind == "regions" and data.regions is not None:
        return _region_builder(data.regions, data.augment, side, config.model.vision.total_stride, tokenizer, format)
    if kind == "texts" and data.texts is not None:
        return _parallel_text_builder(data.texts, config.objective, tokenizer, format)
    if kind == "images":
        two_captions = config.objective.sample_two_captions
        return _image_text_builder(data.images, data.augment, side, two_captions, tokenizer, format)
    if kind == "images_mono" and data.images_mono is not None:
        return _image_text_builder(data.images_mono, data.augment, side, False, tokenizer, format)
    raise ValueError(f"the config has no source {kind!r}")


def _image_text_builder(
    source: ImageTextSource,
    augment: AugmentConfig,
    side: int,
    two_captions: bool,
    tokenizer: Tokenizer,
    format: Format,
) -> ExampleBuilder:
    def build(raw: bytes | memoryview, rng: random.Random) -> UndecodedExample:
        record = records.parse_image_text(raw, source, format)
        return image_text_example(record, source, augment, side, two_captions, tokenizer, rng)

    return build


def _region_builder(
    source: RegionSource, augment: AugmentConfig, side: int, stride: int, tokenizer: Tokenizer, format: Format
) -> ExampleBuilder:
    def build(raw: bytes | memoryview, rng: random.Random) -> UndecodedExample:
        record = records.parse_region(raw, source, format)
        return region_example(record, source, augment, side, stride, tokenizer, rng)

    return build


def _parallel_text_builder(
    source: ParallelTextSource, objective: ObjectiveConfig, tokenizer: Tokenizer, format: Format
) -> ExampleBuilder:
    def build(raw: bytes | memoryview, rng: random.Random) -> UndecodedExample:
        record = records.parse_parallel_text(raw, source, format)
        return parallel_text_example(record, source, objective, tokenizer, rng)

    return build


def image_text_example(
    record: records.ImageTextRecord,
    source: ImageTextSource,
    augment: AugmentConfig,
    side: int,
    two_captions: bool,
    tokenizer: Tokenizer,
    rng: random.Random,
) -> UndecodedExample:
    """An image of `side` px and a caption; with `two_captions`, two of them in different languages."""
    drawn = draw_captions(record.captions, source.languages, source.text, rng)
    first = next(drawn)
    second = next(drawn, None) if two_captions else None
    if two_captions and second is None:
        raise BrokenRecord(records.NO_SECOND_CAPTION, "sample_two_captions needs captions in two languages")
    text = _masked_text(first.text, source.text, tokenizer, rng)
    second_ids = None if second is None else _ids(second.text, source.text, tokenizer)
    image = partial(images.training_image, record.image, side, augment, rng)
    return UndecodedExample(ImageTextExample(text, second_ids), image)


def region_example(
    record: records.RegionRecord,
    source: RegionSource,
    augment: AugmentConfig,
    side: int,
    stride: int,
    tokenizer: Tokenizer,
    rng: random.Random,
) -> UndecodedExample:
    """A random crop around one described box, with the texts of all boxes that the crop keeps.

    There are at most `max_regions` texts. The caption of the whole image comes first, if there is one.

    Args:
        side: of the image that the model sees, px.
        stride: pixels of that image for each side of a patch.
    """
    image = images.open_image(record.image)
    width, height = image.size
    boxes = []
    for i, element in enumerate(record.elements):
        box = regions.inside_image(element.box, width, height)
        if box is None:
            detail = f"elems[{i}].bb = {list(element.box)}, the image is {width} x {height}"
            raise BrokenRecord(records.BOX_OUTSIDE, detail)
        boxes.append(box)
    crop = regions.random_crop_around(rng.choice(boxes) if boxes else None, width, height, rng)
    flipped = rng.random() < augment.horizontal_flip
    if flipped and source.careful_hflip:
        flipped = not regions.says_left_or_right(_all_texts(record))

    texts = []
    if record.captions is not None:
        caption = next(draw_captions(record.captions, source.languages, source.text, rng))
        all_positions = [True] * (1 + (side // stride) ** 2)
        text = _masked_text(caption.text, source.text, tokenizer, rng)
        texts.append(RegionText(text, all_positions, regions.WHOLE_IMAGE, is_whole_image=True))
    across, down = side / (crop.right - crop.left), side / (crop.bottom - crop.top)
    for i in in_random_order(range(len(boxes)), rng):
        if len(texts) >= source.max_regions:
            break
        inside = regions.box_in_crop(boxes[i], crop, source.min_box_inside)
        if inside is None:
            continue
        box = regions.flip(inside, crop.right - crop.left) if flipped else inside
        box = regions.scale(box, across, down)
        text = _masked_text(_region_caption(record.elements[i], source, rng), source.text, tokenizer, rng)
        patches, target = regions.patches_of(box, side, stride), regions.target(box, side)
        texts.append(RegionText(text, patches, target, is_whole_image=False))
    return UndecodedExample(RegionExample(texts), partial(_region_image, image, crop, flipped, side, augment, rng))


def parallel_text_example(
    record: records.ParallelTextRecord,
    source: ParallelTextSource,
    objective: ObjectiveConfig,
    tokenizer: Tokenizer,
    rng: random.Random,
) -> UndecodedExample:
    """A text and its translation. A coin decides which of the two is the source, the masked one."""
    texts = [record.source, record.target]
    if rng.random() < 0.5:
        texts.reverse()
    words, tokens = source.text.max_words, source.text.max_tokens
    try:
        first, second = (tokenizer.ids(clean_caption(text, words), tokens) for text in texts)
    except EmptyTextError as error:
        raise BrokenRecord(records.EMPTY_TEXT, str(error)) from None
    joined = mask([*first, *second[1:]], tokenizer, source.text, rng, texts=2) if objective.use_tlm else None
    return UndecodedExample(
        ParallelTextExample(TextExample(first, mask(first, tokenizer, source.text, rng)), second, joined), None
    )


class DrawnCaption(NamedTuple):
    """A cleaned caption and its language."""

    language: str
    text: str


def draw_captions(
    captions: Captions, languages: tuple[str, ...] | None, config: MaskingConfig, rng: random.Random
) -> Iterator[DrawnCaption]:
    """Draw one of the dicts, and from it one caption in each of `languages` (None: all), languages in random order.

    A text of which cleaning leaves nothing is passed over, and so is a dict without any caption in these languages.
    Draws happen only as far as captions are taken.

    Raises:
        BrokenRecord: no dict has a caption in any of the languages, or nothing is left of all of them.
    """
    first = rng.choice(captions)
    others = (each for each in in_random_order(captions, rng) if each is not first)  # drawn only if there is need
    problems: list[BrokenRecord] = []
    for by_language in itertools.chain([first], others):
        try:
            yield from _draw_languages(by_language, languages, config, rng)
            return
        except BrokenRecord as problem:
            problems.append(problem)
    raise problems[0]


def _draw_languages(
    by_language: Mapping[str, tuple[str, ...]],
    languages: tuple[str, ...] | None,
    config: MaskingConfig,
    rng: random.Random,
) -> Iterator[DrawnCaption]:
    """Draw from one of the dicts, as `draw_captions`."""
    allowed = [key for key in by_language if languages is None or key in languages or key == ANY_LANGUAGE]
    if not allowed:
        detail = f"there are {', '.join(by_language)}; wanted {', '.join(languages or ())}"
        raise BrokenRecord(records.NO_LANGUAGE, detail)
    any_left = False
    for language in in_random_order(allowed, rng):
        texts = by_language[language]
        for text in in_random_order(texts, rng):
            try:
                cleaned = clean_caption(text, config.max_words)
            except EmptyTextError:
                continue
            any_left = True
            yield DrawnCaption(language, cleaned)
            break
    if not any_left:
        raise BrokenRecord(records.EMPTY_CAPTION, f"no words are left of {next(iter(by_language.values()))[0][:40]!r}")


def _region_caption(element: records.Element, source: RegionSource, rng: random.Random) -> str:
    """A caption of a box, cleaned, with drawn attributes before it.

    The attributes are in the caption's language; with `code_switch`, in any of the source's languages.
    """
    language, caption = next(draw_captions(element.captions, source.languages, source.text, rng))
    if element.attributes is None:
        return caption
    attributes = rng.choice(element.attributes)
    if source.code_switch:
        allowed = [key for key in attributes if source.languages is None or key in source.languages]
        language = rng.choice(allowed) if allowed else language
    if language not in attributes:
        return caption
    try:
        return clean_caption(f"{rng.choice(attributes[language])} {caption}", source.text.max_words)
    except EmptyTextError:  # cannot happen, since the caption has words
        return caption


def _region_image(
    image: Image.Image, crop: regions.Crop, flipped: bool, side: int, augment: AugmentConfig, rng: random.Random
) -> Pixels:
    pixels = images.crop_and_resize(image, crop, side)
    if flipped:
        pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    ops, magnitude = augment.rand_augment_ops, augment.rand_augment_magnitude
    return np.asarray(rand_augment(pixels, ops, magnitude, rng, COLOUR_OPERATIONS))


def _all_texts(record: records.RegionRecord) -> Iterator[str]:
    """Every text of a record in all languages: captions, and attributes, which are put before captions."""
    of_elements = (each or () for element in record.elements for each in (element.captions, element.attributes))
    for captions in (record.captions or (), *of_elements):
        for by_language in captions:
            for texts in by_language.values():
                yield from texts


def _ids(caption: str, config: MaskingConfig, tokenizer: Tokenizer) -> list[int]:
    try:
        return tokenizer.ids(caption, config.max_tokens)
    except EmptyTextError as error:
        raise BrokenRecord(records.EMPTY_CAPTION, f"{caption[:40]!r}: {error}") from None


def _masked_text(caption: str, config: MaskingConfig, tokenizer: Tokenizer, rng: random.Random) -> TextExample:
    ids = _ids(caption, config, tokenizer)
    return TextExample(ids, mask(ids, tokenizer, config, rng))
