"""Settings of a pre-training run: what it trains (`PretrainConfig`), its losses, its length and its evaluation.

Batch sizes are global: they count the examples of all processes of a run. The same config therefore reads the same
records at the same steps on any number of GPUs that divides them (docs/data.md, section Order, has the exceptions).
Nothing here opens a file: `files.py` reads configs, and `published.py` translates the published ones.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cclm.config.base import Location, Settings
from cclm.config.compute import ComputeConfig
from cclm.config.model import ModelConfig
from cclm.config.optimization import OptimizerConfig, ScheduleConfig
from cclm.config.output import CheckpointConfig
from cclm.config.sources import DataConfig


class LossWeights(Settings):
    """What each loss is multiplied with before they are summed; all 1 as published.

    A small model without initial weights learns to match images and texts sooner when the losses of the fusion encoder
    (matching and masked tokens) count less.
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
    """Which losses pre-training sums (paper section 3; docs/method.md, section Pre-training objectives)."""

    weights: LossWeights = LossWeights()
    use_tlm: bool = False
    """Parallel text: translation language modelling on the joined pair instead of cross-attention between the two."""
    sample_two_captions: bool = False
    """Draw a second caption, in another language, for each image of `data.images`, and add text-text contrast."""
    box_loss_on_whole_images: bool = False
    """Region steps: the box losses also count texts about the whole image, whose box is the image."""
    equal_texts_are_positives: bool = False
    """Rows of a batch that share a text belong together, in contrast and matching: region texts that are repeated to
    fill a batch, and equal captions of several images. Off, as published: they are negatives of each other."""
    contrastive_gradient: Literal["local", "global"] = "local"
    """local: each process keeps the gradient of its own features only, as published (encoders receive 1/processes of
    the global gradient). global: the gradient of the global batch."""


class TrainingConfig(Settings):
    """How long and how to train. An outer step is one pass over the sources, each of which may take part.

    docs/method.md, section Course of pre-training, describes it.
    """

    epochs: int = Field(30, gt=0)
    """Length of the run, in epochs of `data.images`."""
    dataset_size: int | None = Field(None, gt=0)
    """Records of `data.images` in an epoch; the number in the files if unset."""
    max_steps: int | None = Field(None, gt=0)
    """Outer steps; overrides `epochs`."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast on a GPU, float32 on a CPU."""
    grad_compress: Literal["none", "bf16"] = "none"
    """What processes send each other of their gradients. none: all of it. bf16: bfloat16, which is half the traffic and
    rounds the sums. A single process sends nothing."""
    on_divergence: Literal["stop", "skip"] = "stop"
    """What gradients that are not finite do. stop: end the run. skip: leave out that update, which is counted."""
    max_skipped_updates: int = Field(20, gt=0)
    """With on_divergence skip: more updates in a row than these end the run."""
    log_every: int = Field(50, gt=0)
    """Outer steps between lines of the log."""
    save_every: int | None = Field(None, gt=0)
    """Outer steps between checkpoints; one is always written at the end."""
    evaluate_every: int | None = Field(None, gt=0)
    """Outer steps between evaluations; one is always made at the end when `evaluation` is set."""


class EvaluationConfig(Settings):
    """Held-out retrieval, one list of images and captions a language."""

    files: dict[str, Location] = Field(min_length=1)
    """language -> file with a JSON list of {"image", "caption": [...], "image_id"}."""
    image_root: Location = "images"
    """Folder that image paths are relative to."""
    batch_size: int = Field(64, gt=0)
    """Images or texts encoded at once, each process."""
    candidates: int = Field(128, ge=0)
    """Best candidates of each query that the matching head re-scores; 0 ranks by similarity alone."""
    max_words: int = Field(40, gt=0)
    """Words of a text that are read; those after them are cut off."""
    max_tokens: int = Field(40, gt=2)
    """Tokens of a text that are read, with `<s>` and `</s>`; those after them are cut off."""


class PretrainConfig(Settings):
    """One pre-training run."""

    task: Literal["pretrain"] = "pretrain"
    """What the run trains; it decides which settings a config file has."""
    seed: int = Field(42, ge=0, lt=2**63)
    """Seed of everything that is drawn at random."""
    output_dir: Location = "output/pretrain"
    """Folder of checkpoints, log.txt, metrics.jsonl and results: a path, or a URL of any store."""
    output_hdfs: Location | None = None
    """Second folder that is kept equal to `output_dir` during the run: a URL (hdfs://, s3://, gs:// ...) or a path."""
    tensorboard: bool = False
    """Whether curves for TensorBoard are written, into the folder `tensorboard` of the run; needs that package."""
    model: ModelConfig
    data: DataConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    training: TrainingConfig = TrainingConfig()
    compute: ComputeConfig = ComputeConfig()
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
