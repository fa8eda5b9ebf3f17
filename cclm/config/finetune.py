"""Settings of fine-tuning and evaluation, one class a task; `task:` in a config file chooses the class.

Data sets that share a task differ in their file format only: retrieval serves Multi30K, COCO, xFlickr&CO and WIT.
Batch sizes of training count the examples of all processes. Nothing here opens a file. docs/method.md, section
Fine-tuning tasks, says what the tasks compute.

Few-shot files are written with `{language}` and `{shots}`, which the run fills in. Such a config has no test files: as
published, few-shot training is validated on the test set of its language, and that is the figure reported.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from cclm.config.base import Location, Settings
from cclm.config.model import ModelConfig
from cclm.config.optimization import OptimizerConfig, ScheduleConfig
from cclm.config.output import CheckpointConfig
from cclm.config.pretrain import TrainingConfig
from cclm.config.sources import AugmentConfig, ImageTextSource


def _as_tuple(value: object) -> object:
    """One name becomes a tuple of one. What is neither name nor list is left for pydantic to refuse."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Files = Annotated[tuple[Location, ...], BeforeValidator(_as_tuple)]
"""A list of files; one name alone is a list of one."""
FilesByLanguage = dict[str, Files]
"""language -> files; several are read as one set."""

LANGUAGE, SHOTS = "{language}", "{shots}"
"""What stands for the language and the number of shots in the names of few-shot files."""


class FinetuneOptimizerConfig(OptimizerConfig):
    """AdamW as published for fine-tuning: a smaller rate, no clipping."""

    lr: float = Field(3e-5, gt=0)
    """Highest learning rate, reached at the end of the warm-up."""
    clip_grad_norm: float | None = Field(None, gt=0)
    """Largest norm of the gradient of all parameters; null: no clipping."""


class EpochTrainingConfig(Settings):
    """How long to fine-tune, and when to validate."""

    epochs: int = Field(10, gt=0)
    """Length of the run, in epochs of the training files."""
    max_steps: int | None = Field(None, gt=0)
    """Length of the run, in steps; overrides `epochs`."""
    batch_size: int = Field(128, gt=0)
    """Examples a step, over all processes."""
    num_workers: int = Field(4, ge=0)
    """Loader processes for each training process."""
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
    """Steps between lines of the log."""
    first_validation: int = Field(0, ge=0)
    """First epoch (the first one is 0) after which the model is validated; always validated after the last."""
    validate_every: int = Field(1, gt=0)
    """Epochs between validations, from `first_validation` on."""


class EvaluationBatchConfig(Settings):
    """How much is computed at once; results do not depend on it."""

    batch_size: int = Field(32, gt=0)
    """Images, pairs or questions at once, each process."""


class RetrievalEvaluationConfig(EvaluationBatchConfig):
    """Two-stage retrieval (paper section 4.2; docs/method.md, section Evaluation)."""

    text_batch_size: int = Field(64, gt=0)
    """Texts encoded at once, each process."""
    candidates: int = Field(128, ge=0)
    """Best candidates of each query that the matching head re-scores; 0 ranks by similarity alone."""


class AnsweringEvaluationConfig(EvaluationBatchConfig):
    """Answer ranking (docs/method.md, section Evaluation)."""

    candidates: int = Field(128, gt=0)
    """Number of answers, the best by their first token, that are scored in full."""


class TextLimits(Settings):
    """Where texts are cut."""

    max_words: int = Field(30, gt=0)
    """Words of a text that are read."""
    max_words_evaluation: int | None = Field(None, gt=0)
    """Words of a text that are read in evaluation; `max_words` if unset."""
    max_tokens: int | None = Field(40, gt=2)
    """Tokens of a text that are read, with `<s>` and `</s>`; if unset, as many as the model has positions."""


class AnnotatedData(Settings):
    """Annotation files, as the benchmarks give them, and their images."""

    train_files: Files = Field(min_length=1)
    """Training annotations; read as one set."""
    validation_files: FilesByLanguage = Field(min_length=1)
    """Validation annotations by language. The model that does best on them, averaged over the languages, is kept."""
    test_files: FilesByLanguage = {}
    """Test annotations by language; empty in a few-shot config."""
    translated_test_files: FilesByLanguage = {}
    """The same tests machine-translated to English; read instead of `test_files` in translate-test."""
    text: TextLimits = TextLimits()
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.5, 1.0))
    missing_images: Literal["error", "skip"] = "error"
    """skip: annotations whose image is not there are left out and counted."""

    @property
    def few_shot(self) -> bool:
        """Whether the training files still want a language."""
        return any(LANGUAGE in name for name in self.train_files)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for languages in (self.validation_files, self.test_files, self.translated_test_files):
            for language, files in languages.items():
                if not files:
                    raise ValueError(f"language {language} has an empty list of files; name one or remove the language")
        unknown = set(self.translated_test_files) - set(self.test_files)
        if unknown:
            raise ValueError(f"translated_test_files has languages that test_files lacks: {', '.join(sorted(unknown))}")
        if not self.few_shot and not self.test_files:
            raise ValueError(f"test_files is empty, which only few-shot files (with {LANGUAGE} in train_files) allow")
        return self


class RetrievalData(AnnotatedData):
    """Images and sentences."""

    format: Literal["list", "xflickrco", "wit"] = "list"
    """list: the JSON lists of Multi30K and COCO; xflickrco, wit: IGLUE's line-JSON."""
    image_root: Location = ""
    """list: folder that image paths are relative to."""
    image_roots: dict[Literal["flickr30k", "coco"], Location] | None = None
    """xflickrco: the folders of its two kinds of image."""
    image_tables: Files = ()
    """wit: its tab-separated .csv files of URL and base64 image, or folders of them. The first one that has a URL gives
    its image."""
    index_dir: Location | None = None
    """wit: folder for the indexes of `image_tables`; beside them if unset."""

    @model_validator(mode="after")
    def _check_roots(self) -> Self:
        if (self.format == "xflickrco") != (self.image_roots is not None):
            raise ValueError(f"image_roots belongs to format xflickrco, and only to it; here format is {self.format}")
        if self.image_roots is not None and set(self.image_roots) != {"flickr30k", "coco"}:
            raise ValueError("image_roots must name both flickr30k and coco")
        if self.image_tables and self.format != "wit":
            raise ValueError(f"image_tables belongs to format wit, and only to it; here format is {self.format}")
        return self


class ImageFolderData(AnnotatedData):
    """Records that name images under one folder."""

    image_root: Location = ""
    """Folder that image paths are relative to."""


class ReasoningData(ImageFolderData):
    """NLVR2 under `image_root`, MaRVL in folders of its own."""

    marvl_root: Location = "images/marvl-images"
    """Folder of MaRVL's images: <language>/images/<concept>/<file>."""
    marvl_few_shot_root: Location = "images/marvl_fewshot"
    """Folder of the images of its few-shot files: <language>/all/<file>."""


class AnsweringData(ImageFolderData):
    """GQA and xGQA."""

    answer_list: Location
    """JSON file of all answers: {answer: number}."""


class TextAssignmentData(Settings):
    """Images with captions, as in pre-training."""

    images: ImageTextSource
    augment: AugmentConfig = AugmentConfig()
    index_dir: Location | None = None
    """Folder for the indexes of the files; beside the data if unset."""


class FinetuneConfig(Settings):
    """What the fine-tuning tasks have in common."""

    task: str
    """What the run trains; it decides which settings a config file has."""
    seed: int = Field(42, ge=0)
    """Seed of everything that is drawn at random."""
    output_dir: Location = "output/finetune"
    """Folder of checkpoints, log.txt, metrics.jsonl and results: a path, or a URL of any store."""
    output_hdfs: Location | None = None
    """Second folder that is kept equal to `output_dir` during the run: a URL (hdfs://, s3://, gs:// ...) or a path."""
    tensorboard: bool = False
    """Whether curves for TensorBoard are written, into the folder `tensorboard` of the run; needs that package."""
    model: ModelConfig
    optimizer: FinetuneOptimizerConfig = FinetuneOptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig(warmup_fraction=0.1)
    checkpoints: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="after")
    def _check_positions(self) -> Self:
        data = getattr(self, "data", None)
        limits = data.images.text if isinstance(data, TextAssignmentData) else getattr(data, "text", None)
        longest = self.model.text.max_positions
        if limits is not None and limits.max_tokens is not None and limits.max_tokens > longest:
            raise ValueError(f"max_tokens {limits.max_tokens} of data exceeds model.text.max_positions = {longest}")
        return self


class RetrievalConfig(FinetuneConfig):
    """Multi30K, COCO, xFlickr&CO, WIT."""

    task: Literal["retrieval"]
    data: RetrievalData
    training: EpochTrainingConfig = EpochTrainingConfig()
    evaluation: RetrievalEvaluationConfig = RetrievalEvaluationConfig()


class ClassificationConfig(FinetuneConfig):
    """XVNLI."""

    task: Literal["classification"]
    num_labels: int = Field(3, gt=1)
    """Classes that the model tells apart."""
    data: ImageFolderData
    training: EpochTrainingConfig = EpochTrainingConfig()
    evaluation: EvaluationBatchConfig = EvaluationBatchConfig()


class AnsweringConfig(FinetuneConfig):
    """GQA, and xGQA in evaluation."""

    task: Literal["answering"]
    decoder_layers: int = Field(6, gt=0)
    """Layers of the answer decoder, which starts as a copy of as many fusion layers."""
    data: AnsweringData
    training: EpochTrainingConfig = EpochTrainingConfig(epochs=5)
    evaluation: AnsweringEvaluationConfig = AnsweringEvaluationConfig()

    @model_validator(mode="after")
    def _check_decoder(self) -> Self:
        fusion_layers = self.model.text.num_layers - self.model.text.num_text_layers
        if self.decoder_layers > fusion_layers:
            raise ValueError(
                f"decoder_layers is {self.decoder_layers}, but the decoder starts as the fusion layers of model.text, "
                f"of which there are {fusion_layers}"
            )
        return self


class ReasoningConfig(FinetuneConfig):
    """NLVR2, and MaRVL in evaluation: a sentence about two images."""

    task: Literal["reasoning"]
    data: ReasoningData
    training: EpochTrainingConfig = EpochTrainingConfig()
    evaluation: EvaluationBatchConfig = EvaluationBatchConfig()


class TextAssignmentConfig(FinetuneConfig):
    """Pre-training for two images, before `reasoning`: which image does the text belong to?"""

    task: Literal["text_assignment"]
    data: TextAssignmentData
    training: TrainingConfig = TrainingConfig(epochs=2)


FINETUNE_CONFIGS: dict[str, type[FinetuneConfig]] = {
    "retrieval": RetrievalConfig,
    "classification": ClassificationConfig,
    "answering": AnsweringConfig,
    "reasoning": ReasoningConfig,
    "text_assignment": TextAssignmentConfig,
}
"""Value of `task:` -> its settings."""
