"""Every setting of a run, typed and documented; unknown keys are errors.

Sizes: px = pixels, tokens include `<s>` and `</s>`. Batch sizes are global: over all processes of a run, so the same
config means the same training on any number of GPUs that divides them.
Reading files and translating the published ones is done elsewhere (`config_files.py`, `config_published.py`); nothing
here opens a file or builds an object.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cclm.config.base import Count, Decay, Probability, Settings
from cclm.config.output import CheckpointConfig


class VisionConfig(Settings):
    """The image encoder: Swin, or a ViT as CLIP or DeiT built it."""

    architecture: Literal["swin", "clip_vit", "deit"] = "swin"
    image_size: int = Field(gt=0)
    """Side of the square input image, px."""
    patch_size: int = Field(4, gt=0)
    """Side of one patch at the input, px. Swin halves the grid after every stage but the last."""
    embed_dim: int = Field(128, gt=0)
    """Width of the first Swin stage (it doubles from stage to stage); the width of a ViT."""
    depths: tuple[Count, ...] = Field((2, 2, 18, 2), min_length=1)
    """Blocks of each stage; one number for a ViT."""
    num_heads: tuple[Count, ...] = Field((4, 8, 16, 32), min_length=1)
    """Attention heads of each stage; one number for a ViT."""
    window_size: int = Field(7, gt=0)
    """Swin's attention window, in patches."""
    drop_path: Probability = 0.1
    """Stochastic depth of the last block; it grows linearly from 0."""
    weights: str | None = None
    """Initial weights: Microsoft's Swin file ({"model": ...}), or a timm state dict of a ViT."""

    @property
    def total_stride(self) -> int:
        """Input pixels per side of one output patch."""
        return self.patch_size * 2 ** (len(self.depths) - 1)

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.total_stride) ** 2

    @property
    def width(self) -> int:
        return self.embed_dim * 2 ** (len(self.depths) - 1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.depths) != len(self.num_heads):
            raise ValueError(f"depths has {len(self.depths)} stages and num_heads {len(self.num_heads)}")
        if self.architecture != "swin" and len(self.depths) != 1:
            raise ValueError(f"architecture {self.architecture} takes one number in depths and in num_heads")
        if self.image_size % self.total_stride:
            raise ValueError(f"image_size {self.image_size} is not a multiple of the total stride {self.total_stride}")
        for stage, heads in enumerate(self.num_heads):
            if self.embed_dim * 2**stage % heads:
                raise ValueError(f"num_heads[{stage}] = {heads} does not divide the stage's width")
        return self


class TextConfig(Settings):
    """The text encoder (first layers) and the fusion encoder (the others) of one XLM-R-shaped stack."""

    vocab_size: int = Field(250002, gt=4)
    hidden_size: int = Field(1024, gt=0)
    num_heads: int = Field(16, gt=0)
    intermediate_size: int = Field(4096, gt=0)
    num_layers: int = Field(12, gt=0)
    """Layers of both encoders together."""
    num_text_layers: int = Field(6, gt=0)
    """Layers that see text alone; the other ones, from here on, also attend to the other view."""
    max_positions: int = Field(514, gt=0)
    """Longest text, tokens."""
    dropout: Probability = 0.1
    attention_dropout: Probability = 0.1
    initializer_range: float = Field(0.02, ge=0)
    """Standard deviation of fresh weights."""
    tokenizer: str = "data/xlm-roberta-large"
    """Folder of the tokenizer."""
    weights: str | None = None
    """Initial weights: a Hugging Face XLM-R folder (model.safetensors or pytorch_model.bin)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide hidden_size {self.hidden_size}")
        if self.num_text_layers >= self.num_layers:
            raise ValueError("num_text_layers must leave at least one of num_layers to the fusion encoder")
        return self


class ModelConfig(Settings):
    """The whole model; `weights` overrides the encoders' own initial weights."""

    vision: VisionConfig
    text: TextConfig = TextConfig()
    embed_dim: int = Field(256, gt=0)
    """Width of the space in which images and texts are compared."""
    temperature: float = Field(0.07, ge=0.001, le=0.5)
    """Start of the learnt temperature, which training keeps in the same range."""
    weights: str | None = None
    """A whole model: a published checkpoint (.th) or a folder written by cclm."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.vision.width != self.text.hidden_size:
            raise ValueError(
                f"vision.embed_dim gives width {self.vision.width}, but cross-attention reads "
                f"text.hidden_size = {self.text.hidden_size}: the two must be equal"
            )
        return self


class AugmentConfig(Settings):
    """What training does to an image before the model sees it."""

    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest part of the area that a random crop keeps."""
    horizontal_flip: Probability = 0.5
    rand_augment_ops: int = Field(2, ge=0)
    """Operations of RandAugment an image; 0 turns it off."""
    rand_augment_magnitude: int = Field(7, ge=0, le=10)

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"crop_scale = [{low}, {high}] must be two parts of the area, 0 < smallest <= largest <= 1"
            )
        return self


class MaskingConfig(Settings):
    """Word cleaning, cutting and masking of a text (as published, paper section 3)."""

    max_words: int = Field(40, gt=0)
    max_tokens: int = Field(40, gt=2)
    mask_probability: Probability = 0.4
    max_masks: int = Field(12, gt=0)
    span_probability: Probability = 0.2
    """How often a masked place grows to a span."""
    max_span: int = Field(3, ge=1)
    """Longest span, tokens."""
    whole_words: bool = False


class SourceConfig(Settings):
    """One source of pre-training records: line-JSON files."""

    files: tuple[str, ...] = Field(min_length=1)
    """Files, or folders of files."""
    batch_size: int = Field(gt=0)
    """Texts a step, over all processes."""
    probability: Probability = 1.0
    """How often an outer step trains on this source."""
    num_workers: int = Field(2, ge=0)
    """Loader processes for each training process."""
    text: MaskingConfig = MaskingConfig()


class ImageTextSource(SourceConfig):
    """Images with captions; monolingual files have `caption_key: desc`."""

    image_key: str = "binary"
    image_is_path: bool = False
    """The image field is a path (relative to `image_root`) instead of base64."""
    image_root: str = ""
    caption_key: str = "caption"
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
    target_key: str = "target_text"
    text: MaskingConfig = MaskingConfig(max_words=64, max_tokens=64, max_masks=20)


class BrokenRecordsConfig(Settings):
    """How many broken records of a source training puts up with before it stops."""

    max_rate: Probability = 1e-3
    """Part of the records that the run read so far, over all processes and restarts; looked at with every log line."""
    min_records: int = Field(10_000, ge=0)
    """Records read before the rate counts."""
    max_in_a_row: int = Field(100, gt=0)
    """Broken records that follow each other in one place of the batch."""


class DataConfig(Settings):
    """What pre-training reads."""

    images: ImageTextSource
    regions: RegionSource | None = None
    images_mono: ImageTextSource | None = None
    texts: ParallelTextSource | None = None
    augment: AugmentConfig = AugmentConfig()
    index_dir: str | None = None
    """Where indexes of the files are kept; beside the data if unset."""
    broken: BrokenRecordsConfig = BrokenRecordsConfig()


class LossWeights(Settings):
    """What each loss is multiplied with before they are summed; all 1 as published.

    A small model that starts from nothing learns to match sooner when the losses of the fusion encoder count less.
    """

    itc: float = Field(1.0, ge=0)
    """Image-text contrast."""
    ttc: float = Field(1.0, ge=0)
    """Text-text contrast."""
    itm: float = Field(1.0, ge=0)
    """Image-text matching."""
    ttm: float = Field(1.0, ge=0)
    """Text-text matching."""
    mlm: float = Field(1.0, ge=0)
    """Masked tokens."""
    bbox: float = Field(1.0, ge=0)
    """Boxes, L1."""
    giou: float = Field(1.0, ge=0)
    """Boxes, 1 - GIoU."""


class ObjectiveConfig(Settings):
    """Which losses pre-training sums (paper section 3)."""

    weights: LossWeights = LossWeights()
    use_tlm: bool = False
    """Parallel text: translation language modelling on the joined pair instead of cross-attention between the two."""
    sample_two_captions: bool = False
    box_loss_on_whole_images: bool = False
    contrastive_gradient: Literal["local", "global"] = "local"
    """local: each process keeps the gradient of its own features only, as published (encoders receive 1/processes of
    the global gradient). global: the gradient of the global batch."""


class OptimizerConfig(Settings):
    """AdamW."""

    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    eps: float = Field(1e-8, gt=0)
    lr_mult: float = Field(2.0, gt=0)
    """Rate of parameters without initial weights, as a multiple of `lr`."""
    clip_grad_norm: float | None = Field(1.0, gt=0)


class ScheduleConfig(Settings):
    """Linear warm-up, then linear decay to 0."""

    warmup_steps: int | None = Field(None, ge=0)
    warmup_fraction: Probability | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_steps is not None and self.warmup_fraction is not None:
            raise ValueError("give warmup_steps or warmup_fraction, not both")
        return self


class TrainingConfig(Settings):
    """How long and how to train."""

    epochs: int = Field(30, gt=0)
    dataset_size: int | None = Field(None, gt=0)
    """Records of `data.images` an epoch counts; the number in the files if unset."""
    max_steps: int | None = Field(None, gt=0)
    """Outer steps; overrides `epochs`."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast on a GPU, float32 on a CPU."""
    log_every: int = Field(50, gt=0)
    """Outer steps between lines of the log."""
    save_every: int | None = Field(None, gt=0)
    """Outer steps between checkpoints; one is always written at the end."""
    evaluate_every: int | None = Field(None, gt=0)
    """Outer steps between evaluations; one is always made at the end when `evaluation` is set."""


class EvaluationConfig(Settings):
    """Held-out retrieval, one list of images and captions a language."""

    files: dict[str, str] = Field(min_length=1)
    """language -> JSON list of {"image", "caption": [...], "image_id"}."""
    image_root: str = "images"
    batch_size: int = Field(64, gt=0)
    """Images or texts encoded at once, each process."""
    candidates: int = Field(128, ge=0)
    """Best candidates of each query that the matching head re-scores; 0 ranks by similarity alone."""
    max_words: int = Field(40, gt=0)
    max_tokens: int = Field(40, gt=2)


class PretrainConfig(Settings):
    """One pre-training run."""

    task: Literal["pretrain"] = "pretrain"
    seed: int = Field(42, ge=0, lt=2**63)
    output_dir: str = "output/pretrain"
    """Folder of checkpoints, log.txt, metrics.jsonl and results: a path, or a URL of any store."""
    output_hdfs: str | None = None
    """URL (hdfs://, s3://, gs:// ...) or path of a second folder that is kept equal to `output_dir` during the run."""
    model: ModelConfig
    data: DataConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    training: TrainingConfig = TrainingConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        longest = self.model.text.max_positions
        for name in ("images", "regions", "images_mono", "texts"):
            source = getattr(self.data, name)
            if source is not None and source.text.max_tokens > longest:
                raise ValueError(
                    f"data.{name}.text.max_tokens = {source.text.max_tokens} exceeds "
                    f"model.text.max_positions = {longest}"
                )
        if self.evaluation is not None and self.evaluation.max_tokens > longest:
            raise ValueError(
                f"evaluation.max_tokens = {self.evaluation.max_tokens} exceeds model.text.max_positions = {longest}"
            )
        if self.data.images.probability != 1:
            raise ValueError(
                "data.images.probability must be 1: an outer step trains regions (data.regions.probability) or images"
            )
        joined = self.data.texts.text.max_tokens * 2 if self.data.texts and self.objective.use_tlm else 0
        if joined > longest:
            raise ValueError(f"use_tlm joins two texts: {joined} tokens exceed model.text.max_positions = {longest}")
        if self.objective.box_loss_on_whole_images and self.data.regions is None:
            raise ValueError("objective.box_loss_on_whole_images needs data.regions")
        return self
