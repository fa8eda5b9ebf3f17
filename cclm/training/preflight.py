"""Checks of a run's settings before anything is built: batch sizes, the tokenizer, data, shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cclm.config.batches import check_divisible
from cclm.config.finetune import FinetuneConfig, ReasoningConfig, TextAssignmentConfig
from cclm.config.pretrain import PretrainConfig
from cclm.config.sources import ImageTextSource, RegionSource, SourceConfig
from cclm.data.annotations.read import AnnotatedConfig, Split, files_of
from cclm.data.annotations.source import file_size
from cclm.data.batches.shared_images import PREFETCH, SharedImages
from cclm.data.examples.tokenizer import Tokenizer, load_tokenizer
from cclm.data.stored.files import data_files
from cclm.errors import UserError
from cclm.training.plan import KINDS


def load_checked_tokenizer(config: PretrainConfig | FinetuneConfig) -> Tokenizer:
    """The config's tokenizer.

    Raises:
        UserError: it is absent, or has more tokens than the model.
    """
    tokenizer = load_tokenizer(config.model.text.tokenizer)
    if tokenizer.vocab_size > config.model.text.vocab_size:
        raise UserError(
            f"the tokenizer {config.model.text.tokenizer} has {tokenizer.vocab_size} tokens, but "
            f"model.text.vocab_size = {config.model.text.vocab_size}; set it to at least the former"
        )
    return tokenizer


def problems_of_settings(config: PretrainConfig | FinetuneConfig, processes: int) -> list[str]:
    """What keeps a run of `processes` processes from starting, apart from its data; a sentence each."""
    problems = []
    try:
        load_checked_tokenizer(config)
    except UserError as error:
        problems.append(str(error))
    if isinstance(config, PretrainConfig):
        try:
            check_divisible(config, processes)
        except UserError as error:
            problems.append(str(error))
        return problems
    if isinstance(config, TextAssignmentConfig):
        name, size = "data.images.batch_size", config.data.images.batch_size
    elif isinstance(config, AnnotatedConfig):
        name, size = "training.batch_size", config.training.batch_size
    else:
        raise TypeError(f"{type(config).__name__} is no config of a task")
    if size % processes:
        problems.append(f"{name} = {size} cannot be shared by {processes} processes: make it a multiple of {processes}")
    return problems


InputSplit = Split | Literal["training"]


def check_inputs(config: PretrainConfig | FinetuneConfig, splits: Sequence[InputSplit]) -> None:
    """The data files that a run reads exist. Images that annotations name are not looked for.

    Args:
        splits: those that the run reads. Pre-training data is of `training`, its held-out lists are of `test`.

    Raises:
        UserError: a file or folder is missing, or is none that can be read.
        StoreUnavailable: a store does not answer.
    """
    if "training" in splits:
        for kind, source in _sources(config).items():
            data_files(f"data.{kind}.files", source.files)
    for file in _annotation_files(config, splits):
        if "{" not in file:  # a few-shot config leaves the language open
            file_size(file)


def shared_memory_needed(config: PretrainConfig | FinetuneConfig, processes: int) -> int:
    """Bytes of shared memory that the images of one process's loader processes take at least.

    Args:
        processes: of the run. The fewer there are, the more images each one reads.
    """
    side = config.model.vision.image_size
    if isinstance(config, AnnotatedConfig):
        images = config.training.batch_size // processes * (2 if isinstance(config, ReasoningConfig) else 1)
        return config.training.num_workers * PREFETCH * images * side * side * 3
    total = 0
    for source in _sources(config).values():
        if isinstance(source, ImageTextSource):
            slots = (source.max_images if isinstance(source, RegionSource) else source.batch_size) // processes
            workers = min(source.num_workers, slots)
            total += SharedImages.size(workers, -(-slots // workers), side) if workers else 0
    return total


def _sources(config: PretrainConfig | FinetuneConfig) -> dict[str, SourceConfig]:
    """Kind -> source of pre-training records; empty for a task that reads annotations."""
    if isinstance(config, PretrainConfig):
        return {kind: source for kind in KINDS if (source := getattr(config.data, kind)) is not None}
    return {"images": config.data.images} if isinstance(config, TextAssignmentConfig) else {}


def _annotation_files(config: PretrainConfig | FinetuneConfig, splits: Sequence[InputSplit]) -> list[str]:
    """Annotation files of some splits, each once."""
    files: list[str] = []
    if isinstance(config, PretrainConfig) and config.evaluation is not None and "test" in splits:
        files += config.evaluation.files.values()
    if isinstance(config, AnnotatedConfig):
        for split in splits:
            if split == "training":
                files += config.data.train_files
            else:
                files += [file for names in files_of(config, split).values() for file in names]
    return list(dict.fromkeys(files))
