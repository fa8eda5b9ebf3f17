"""The validation and test sets of a fine-tuning config: read and checked once, measured as often as wanted."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from cclm.config.finetune import AnsweringConfig, FinetuneConfig, RetrievalConfig
from cclm.data.annotations.gqa import read_answer_list
from cclm.data.annotations.missing import Policy, missing_images
from cclm.data.annotations.read import Split, languages_of, read_evaluation, read_training
from cclm.data.annotations.types import AnySet, FewShot, RetrievalSet
from cclm.data.examples.texts import TextRules, clean_set_caption
from cclm.data.examples.tokenizer import Tokenizer
from cclm.errors import UserError
from cclm.metrics.measured import Measured
from cclm.tasks.entry_evaluation import EntryTest, evaluate_entries
from cclm.tasks.retrieval_evaluation import RetrievalTest, evaluate_retrieval
from cclm.training.environment import autocast

Sets = dict[str, AnySet]
"""language -> set"""


def read_sets(config: FinetuneConfig, split: Split, shots: FewShot | None, missing: Policy) -> Sets:
    """All languages of a split.

    Raises:
        UserError: a file, an image or a caption does not serve; named with its line.
    """
    sets: Sets = {}
    for language in languages_of(config, split, shots):
        sets[language] = checked(config, read_evaluation(config, split, language, shots), missing)
    return sets


def checked(config: FinetuneConfig, dataset: AnySet, missing: Policy) -> AnySet:
    """The set with images that exist and, for retrieval, captions that say something.

    Raises:
        UserError: names what is not there, and which annotation wants it.
    """
    dataset = missing_images(dataset, missing)
    if isinstance(dataset, RetrievalSet):
        for text in range(len(dataset.texts)):
            clean_set_caption(dataset, text, config.data.text.max_words)
    return dataset


def dropped(sets: Mapping[str, AnySet]) -> str:
    """What was left out of each set, in words; empty if nothing was."""
    parts = []
    for name, dataset in sets.items():
        counts = ", ".join(f"{number} for {reason}" for reason, number in sorted(dataset.dropped.items()) if number)
        if counts:
            parts.append(f"{name}: left out {counts}")
    return "; ".join(parts)


def text_rules(config: FinetuneConfig, *, training: bool) -> TextRules:
    """How a task's texts are cut."""
    text = config.data.text
    words = text.max_words if training or text.max_words_evaluation is None else text.max_words_evaluation
    tokens = config.model.text.max_positions if text.max_tokens is None else text.max_tokens
    return TextRules(words, tokens, questions=isinstance(config, AnsweringConfig))


class TaskTests:
    """Measures sets of a task.

    Raises:
        UserError: the answer list cannot be read.
    """

    def __init__(self, config: FinetuneConfig, tokenizer: Tokenizer, device: torch.device) -> None:
        self._config, self._tokenizer, self._device = config, tokenizer, device
        self._answers: tuple[str, ...] = ()
        if isinstance(config, AnsweringConfig):
            self._answers = tuple(read_answer_list(config.data.answer_list))

    def measure(self, task: nn.Module, sets: Sets) -> dict[str, Measured]:
        """All sets, by all processes together; the same on each of them. The task is left in evaluation mode."""
        if not sets:
            raise UserError("there is nothing to measure: the config names no files for this split")
        config, rules = self._config, text_rules(self._config, training=False)
        size = config.model.vision.image_size
        task.eval()
        with autocast(config.training.precision, self._device):
            if isinstance(config, RetrievalConfig):
                settings = config.evaluation
                test = RetrievalTest(
                    image_size=size,
                    batch_size=settings.batch_size,
                    text_batch_size=settings.text_batch_size,
                    candidates=settings.candidates,
                    max_words=rules.max_words,
                    max_tokens=rules.max_tokens,
                )
                return evaluate_retrieval(task, sets, self._tokenizer, test, self._device)
            candidates = config.evaluation.candidates if isinstance(config, AnsweringConfig) else 0
            entry_test = EntryTest(size, config.evaluation.batch_size, rules, self._answers, candidates)
            return evaluate_entries(task, sets, self._tokenizer, entry_test, self._device)


def read_training_set(config: FinetuneConfig, shots: FewShot | None, missing: Policy) -> AnySet:
    """The training set, checked as the others.

    Raises:
        UserError: as `checked`, or nothing is left.
    """
    dataset = checked(config, read_training(config, shots), missing)
    if len(dataset) == 0:
        raise UserError(f"{', '.join(dataset.files)}: no training example is left; see what was left out")
    return dataset
