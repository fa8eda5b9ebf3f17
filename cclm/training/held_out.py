"""Held-out retrieval, language by language, spread over the processes of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from cclm import distributed, storage
from cclm.config.pretrain import EvaluationConfig
from cclm.data.annotations.annotation_sets import RetrievalSet
from cclm.data.annotations.lists import read_retrieval_list
from cclm.data.annotations.source import read_list
from cclm.data.cleaning import EmptyTextError, clean_caption
from cclm.data.examples.tokenizer import Tokenizer
from cclm.errors import UserError, advice_on_missing
from cclm.events import Evaluated, Journal, Notice
from cclm.metrics.tables import mean_rows
from cclm.model.cclm import CCLM
from cclm.tasks.retrieval_evaluation import RetrievalTest, evaluate_retrieval
from cclm.training.environment import autocast

RESULT = "retrieval.json"

Scores = dict[str, dict[str, float]]
"""language -> metrics in percent (`cclm.metrics.recall`)."""


class HeldOut:
    """The held-out lists of a config. They are read and checked once, so that a fault in them shows before training.

    Args:
        precision: as in TrainingConfig; evaluation computes as training does.
        tokenizer: checks that something is left of each caption.

    Raises:
        UserError: a list is absent or unreadable, an image is not there, or nothing is left of a caption.
    """

    def __init__(self, config: EvaluationConfig, precision: str, tokenizer: Tokenizer) -> None:
        self._config = config
        self._precision = precision
        for language, path in config.files.items():
            if not Path(path).is_file():
                advice = advice_on_missing(path, "correct the path")
                raise UserError(f"evaluation.files.{language}: {path} does not exist; {advice}")
        self._sets = {language: read_retrieval_list(path, config.image_root) for language, path in config.files.items()}
        for language, dataset in self._sets.items():
            _check_captions(dataset, config, config.files[language], tokenizer)
        _check_images(self._sets)

    def measure(self, model: CCLM, tokenizer: Tokenizer, image_size: int, device: torch.device) -> Scores:
        """Scores of all languages, in the config's order, on every process; the model is left in evaluation mode."""
        model.eval()
        test = RetrievalTest(
            image_size=image_size,
            batch_size=self._config.batch_size,
            text_batch_size=self._config.batch_size,
            candidates=self._config.candidates,
            max_words=self._config.max_words,
            max_tokens=self._config.max_tokens,
        )
        with autocast(self._precision, device):
            measured = evaluate_retrieval(model, self._sets, tokenizer, test, device)
        return {language: each.metrics for language, each in measured.items()}

    def publish(self, scores: Scores, step: int, journal: Journal, output_dir: Path) -> None:
        """Report the scores, and write them to `retrieval.json` on the first process.

        Args:
            step: outer steps that the model was trained for.

        Raises:
            OSError: that file cannot be written; all else is done.
        """
        journal.emit(Evaluated("retrieval", step, scores))
        if distributed.rank() != 0:
            return
        means = {name.replace(" ", "_"): row for name, row in mean_rows(scores).items()}
        text = json.dumps({"step": step, "languages": scores, **means}, indent=1, ensure_ascii=False) + "\n"
        storage.write_atomic(str(output_dir / RESULT), text.encode())

    def publish_while_training(self, scores: Scores, step: int, journal: Journal, output_dir: Path) -> None:
        """As `publish`, but a full disk is only reported: the saves that fail decide whether training goes on."""
        try:
            self.publish(scores, step, journal, output_dir)
        except OSError as error:
            reason = error.strerror or error
            journal.emit(Notice(f"{RESULT} could not be written ({reason}); metrics.jsonl has its numbers"))


def _check_captions(dataset: RetrievalSet, config: EvaluationConfig, path: str, tokenizer: Tokenizer) -> None:
    for text in dataset.texts:
        try:
            tokenizer.ids(clean_caption(text, config.max_words), config.max_tokens)
        except EmptyTextError as error:
            # The entries of one picture are one image of the set, so the set does not tell the entry of a caption.
            place = next(record.place for record in read_list(path) if text in record.texts("caption"))
            raise UserError(f"{place}, caption {text[:40]!r}: {error}; remove it from the list") from None


def _check_images(sets: Mapping[str, RetrievalSet]) -> None:
    """Check that every image is there. One that several languages or entries share is looked for once."""
    places: dict[str, str] = {}
    for dataset in sets.values():
        for image, place in dataset.wanted_images():
            places.setdefault(image.url, place)
    with ThreadPoolExecutor(16) as pool:  # a store answers each question in tens of milliseconds
        for (url, place), is_there in zip(places.items(), pool.map(storage.is_file, places), strict=True):
            if not is_there:
                raise UserError(
                    f"{place}: the image {url} does not exist; correct evaluation.image_root or fetch the image"
                )
