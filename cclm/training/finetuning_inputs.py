"""What a fine-tuning run reads: the tokenizer, the training set, and the validation and test sets."""

from __future__ import annotations

from dataclasses import dataclass

from cclm import distributed
from cclm.data.annotations.read import AnnotatedConfig, Split
from cclm.data.batches.finetuning_source import FinetuneSource, open_finetune_source
from cclm.data.examples.finetuning_examples import Preprocessor
from cclm.data.examples.tokenizer import Tokenizer
from cclm.data.stored.order import slots_of_rank
from cclm.errors import UserError
from cclm.training.options import FinetuneOptions
from cclm.training.preflight import load_checked_tokenizer
from cclm.training.task_tests import Sets, read_sets, read_training_set, remarks, text_rules


@dataclass(frozen=True)
class FinetuneInputs:
    """What a run reads."""

    tokenizer: Tokenizer
    source: FinetuneSource
    validation: Sets
    test: Sets
    description: str
    """The training set in words, and what was left out of all sets."""


def read_inputs(config: AnnotatedConfig, options: FinetuneOptions) -> FinetuneInputs:
    """Read and check everything.

    Raises:
        UserError: names the file and line, or the setting, that is wrong.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    slots_of_rank("training.batch_size", config.training.batch_size, rank, world_size)
    tokenizer = load_checked_tokenizer(config)
    missing = options.missing or config.data.missing_images
    training_set = read_training_set(config, options.shots, missing)
    validation = read_sets(config, "validation", options.shots, missing)
    test = read_test_sets(config, options)
    rules = text_rules(config, training=True)
    source = open_finetune_source(
        training_set,
        Preprocessor(config.model.vision.image_size, config.data.augment, rules, tokenizer),
        config.model.text.max_positions,
        config.training.batch_size,
        seed=config.seed,
        num_workers=config.training.num_workers,
        rank=rank,
        world_size=world_size,
    )
    lines = [f"{len(training_set):,} of {', '.join(training_set.files)}"]
    for split, sets in (("training", {"all": training_set}), ("validation", validation), ("test", test)):
        if remark := remarks(sets):
            lines.append(f"{split} sets, {remark}")
    return FinetuneInputs(tokenizer, source, validation, test, "\n".join(lines))


def read_test_sets(config: AnnotatedConfig, options: FinetuneOptions) -> Sets:
    """What is tested in the end: the translated files if asked for, else the test files.

    Raises:
        UserError: a file is absent or unusable.
    """
    missing = options.missing or config.data.missing_images
    if options.translated:
        if not config.data.translated_test_files:
            raise UserError("--gmt: the config has no data.translated_test_files; name the translated tests there")
        return read_sets(config, "translated_test", options.shots, missing)
    # A few-shot config has no test files: as published, it is tested on its validation set.
    split: Split = "test" if config.data.test_files else "validation"
    return read_sets(config, split, options.shots, missing)


def tested_split(options: FinetuneOptions) -> Split:
    """What the results call the test sets."""
    return "translated_test" if options.translated else "test"
