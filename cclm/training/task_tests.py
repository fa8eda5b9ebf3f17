"""The training, validation and test sets of a fine-tuning config: read and checked once, measured at any time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from cclm import distributed
from cclm.config.finetune import AnsweringConfig, RetrievalConfig
from cclm.data.annotations.annotation_sets import AnySet, FewShot, RetrievalSet
from cclm.data.annotations.gqa import read_answer_list
from cclm.data.annotations.missing import Policy, missing_images
from cclm.data.annotations.read import AnnotatedConfig, Split, languages_of, read_evaluation, read_training
from cclm.data.examples.texts import TextRules, clean_set_caption
from cclm.data.examples.tokenizer import Tokenizer
from cclm.data.examples.unreadable import leave_out_unreadable
from cclm.errors import UserError
from cclm.metrics.measured import Measured
from cclm.tasks.entry_evaluation import EntryTest, evaluate_entries
from cclm.tasks.retrieval import RetrievalTask
from cclm.tasks.retrieval_evaluation import RetrievalTest, evaluate_retrieval
from cclm.training.environment import autocast

Sets = dict[str, AnySet]
"""language -> set"""


def read_sets(config: AnnotatedConfig, split: Split, shots: FewShot | None, missing: Policy) -> Sets:
    """All languages of a split.

    Raises:
        UserError: a file, an image or a caption is unusable; names it, with its line.
    """
    sets: Sets = {}
    for language in languages_of(config, split, shots):
        sets[language] = checked(config, read_evaluation(config, split, language, shots), missing)
    return sets


def checked(config: AnnotatedConfig, dataset: AnySet, missing: Policy) -> AnySet:
    """The set, checked: its images exist and, for retrieval, something is left of its captions.

    Raises:
        UserError: names what is missing, and the annotation that refers to it.
    """
    dataset = leave_out_unreadable(
        missing_images(dataset, missing),
        missing,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        gather=distributed.gather_objects,
    )
    if isinstance(dataset, RetrievalSet):
        for text in range(len(dataset.texts)):
            clean_set_caption(dataset, text, config.data.text.max_words)
    return dataset


def remarks(sets: Mapping[str, AnySet]) -> str:
    """In words, what was left out of each set, and what else to know of it; empty if there is nothing to say."""
    parts = []
    for name, dataset in sets.items():
        counts = ", ".join(f"{number} for {reason}" for reason, number in sorted(dataset.dropped.items()) if number)
        if counts:
            parts.append(f"{name}: left out {counts}")
        parts += [f"{name}: {remark}" for remark in dataset.remarks()]
    return "; ".join(parts)


def text_rules(config: AnnotatedConfig, *, training: bool) -> TextRules:
    """Where a task's texts are cut, in training or in evaluation."""
    text = config.data.text
    words = text.max_words if training or text.max_words_evaluation is None else text.max_words_evaluation
    tokens = config.model.text.max_positions if text.max_tokens is None else text.max_tokens
    return TextRules(words, tokens, questions=isinstance(config, AnsweringConfig))


class TaskTests:
    """Measures a task on its sets.

    Raises:
        UserError: the answer list cannot be read.
    """

    def __init__(self, config: AnnotatedConfig, tokenizer: Tokenizer, device: torch.device) -> None:
        self._config, self._tokenizer, self._device = config, tokenizer, device
        self._answers: tuple[str, ...] = ()
        if isinstance(config, AnsweringConfig):
            self._answers = tuple(read_answer_list(config.data.answer_list))

    def measure(self, task: nn.Module, sets: Sets) -> dict[str, Measured]:
        """Measure all sets, by all processes together. The task is left in evaluation mode.

        Returns:
            language -> what was measured; the same on every process, apart from predictions.

        Raises:
            UserError: there are no sets, or an image or a text is unusable.
        """
        if not sets:
            raise UserError("there is nothing to measure: the config names no files for this split")
        config, rules = self._config, text_rules(self._config, training=False)
        size = config.model.vision.image_size
        retrieval_sets = {language: each for language, each in sets.items() if isinstance(each, RetrievalSet)}
        entry_sets = {language: each for language, each in sets.items() if not isinstance(each, RetrievalSet)}
        task.eval()
        with autocast(config.training.precision, self._device):
            if isinstance(config, RetrievalConfig):
                if not isinstance(task, RetrievalTask):
                    raise TypeError(f"a {type(task).__name__} does no retrieval")
                settings = config.evaluation
                test = RetrievalTest(
                    image_size=size,
                    batch_size=settings.batch_size,
                    text_batch_size=settings.text_batch_size,
                    candidates=settings.candidates,
                    max_words=rules.max_words,
                    max_tokens=rules.max_tokens,
                )
                return evaluate_retrieval(task, retrieval_sets, self._tokenizer, test, self._device)
            candidates = config.evaluation.candidates if isinstance(config, AnsweringConfig) else 0
            entry_test = EntryTest(size, config.evaluation.batch_size, rules, self._answers, candidates)
            return evaluate_entries(task, entry_sets, self._tokenizer, entry_test, self._device)


def read_training_set(config: AnnotatedConfig, shots: FewShot | None, missing: Policy) -> AnySet:
    """The training set, checked as the other sets are.

    Raises:
        UserError: as `checked`, or nothing is left.
    """
    dataset = checked(config, read_training(config, shots), missing)
    if len(dataset) == 0:
        raise UserError(f"{', '.join(dataset.files)}: no training example is left; see what was left out")
    return dataset
