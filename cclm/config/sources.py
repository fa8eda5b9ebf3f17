"""Settings of what training reads: masking of texts, augmentation of images, and the sources of records.

Numbers of tokens include `<s>` and `</s>`. Batch sizes are global: they count the examples of all processes of a run.
docs/method.md, section Input pipeline, says how an example is made.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from cclm.config.base import Location, Probability, Settings


class MaskingConfig(Settings):
    """Word cleaning, cutting and masking of a text."""

    max_words: int = Field(40, gt=0)
    """Words of a text that are read; those after them are cut off."""
    max_tokens: int = Field(40, gt=2)
    """Tokens of a text that are read; those after them are cut off."""
    mask_probability: Probability = 0.4
    """Part of a text's tokens that is masked."""
    max_masks: int = Field(12, gt=0)
    """Most tokens of a text that are masked."""
    span_probability: Probability = 0.2
    """How often a masked place grows to a span."""
    max_span: int = Field(3, ge=1)
    """Longest span, tokens."""
    whole_words: bool = False
    """Whether a masked place grows to the whole word around it."""


class AugmentConfig(Settings):
    """What training does to an image before the model sees it."""

    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest part of the area that a random crop keeps."""
    horizontal_flip: Probability = 0.5
    """How often an image is mirrored."""
    rand_augment_ops: int = Field(2, ge=0)
    """Operations of RandAugment an image; 0 turns it off."""
    rand_augment_magnitude: int = Field(7, ge=0, le=10)
    """Strength of RandAugment's operations, from 0 to 10."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"crop_scale = [{low}, {high}] must be two parts of the area, 0 < smallest <= largest <= 1"
            )
        return self


class SourceConfig(Settings):
    """One source of pre-training records: line-JSON files, or tar shards."""

    files: tuple[Location, ...] = Field(min_length=1)
    """Files, or folders of files."""
    batch_size: int = Field(gt=0)
    """Texts a step, over all processes."""
    probability: Probability = 1.0
    """How often an outer step trains on this source."""
    num_workers: int = Field(2, ge=0)
    """Loader processes for each training process."""
    text: MaskingConfig = MaskingConfig()


class ImageTextSource(SourceConfig):
    """Images with captions. Files of one language each have `caption_key: desc`."""

    image_key: str = "binary"
    """Key of the image in a record."""
    image_is_path: bool = False
    """The image field is a path (relative to `image_root`) instead of base64."""
    image_root: Location = ""
    """Folder that image paths are relative to."""
    caption_key: str = "caption"
    """Key of the captions in a record."""
    languages: tuple[str, ...] | None = Field(None, min_length=1)
    """Draw captions of these languages only; unset: of all."""


class RegionSource(ImageTextSource):
    """Images with boxes, each with captions of its own."""

    probability: Probability = 0.5
    """How often an outer step trains on regions; on images otherwise."""
    max_images: int = Field(384, gt=0)
    """Images a step, over all processes."""
    max_regions: int = Field(5, gt=0)
    """Texts an image."""
    min_box_inside: Probability = 0.5
    """Part of a box that must lie inside the crop."""
    code_switch: bool = False
    """Attributes may be in another language than the caption they stand before."""
    careful_hflip: bool = True
    """No flip when a text says left or right."""


class ParallelTextSource(SourceConfig):
    """Sentences and their translations."""

    source_key: str = "source_text"
    """Key of the sentence in a record."""
    target_key: str = "target_text"
    """Key of its translation."""
    text: MaskingConfig = MaskingConfig(max_words=64, max_tokens=64, max_masks=20)


class BrokenRecordsConfig(Settings):
    """How many broken records of a source training puts up with before it stops."""

    max_rate: Probability = 1e-3
    """Part of the records that the run read so far, over all processes and restarts. Checked at every log line."""
    min_records: int = Field(10_000, ge=0)
    """Records read before the rate counts."""
    max_in_a_row: int = Field(100, gt=0)
    """Broken records that follow each other in one place of the batch."""


class DataConfig(Settings):
    """What pre-training reads. An outer step trains on `images` or on `regions`, and may train on the others, too."""

    images: ImageTextSource
    regions: RegionSource | None = None
    images_mono: ImageTextSource | None = None
    texts: ParallelTextSource | None = None
    augment: AugmentConfig = AugmentConfig()
    index_dir: Location | None = None
    """Folder for the indexes of the files; beside the data if unset."""
    broken: BrokenRecordsConfig = BrokenRecordsConfig()
