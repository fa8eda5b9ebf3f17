"""From a task's data settings to its annotations: the one place that knows which format a task's files have."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from cclm import storage
from cclm.config.finetune import (
    LANGUAGE,
    SHOTS,
    AnnotatedData,
    AnsweringConfig,
    ClassificationConfig,
    FinetuneConfig,
    ReasoningConfig,
    RetrievalConfig,
    RetrievalData,
)
from cclm.data.annotations.flickr import read_xflickrco
from cclm.data.annotations.gqa import read_answer_list, read_questions
from cclm.data.annotations.lists import read_retrieval_lists
from cclm.data.annotations.nlvr import PairImageRoots, read_pairs
from cclm.data.annotations.types import AnySet, FewShot, RetrievalSet
from cclm.data.annotations.wit import read_wit
from cclm.data.annotations.xvnli import read_xvnli
from cclm.errors import UserError

Split = Literal["validation", "test", "translated_test"]

AnnotatedConfig = RetrievalConfig | ClassificationConfig | AnsweringConfig | ReasoningConfig
"""Tasks that read annotation files; text assignment reads pre-training data."""


def read_training(config: FinetuneConfig, shots: FewShot | None = None) -> AnySet:
    """The annotations that a task trains on, all files read as one. Images are not looked for (`missing.py`).

    Args:
        shots: fills in a few-shot config's files; None for any other config.

    Raises:
        UserError: one sentence that names the file and the line, or the key of the config.
    """
    config = _annotated(config)
    _check_shots(config.data, shots)
    return _read(config, _existing(config.data.train_files, shots), "data.train_files")


def read_evaluation(config: FinetuneConfig, split: Split, language: str, shots: FewShot | None = None) -> AnySet:
    """The annotations of one language's validation or test; `languages_of` names those that there are.

    Raises UserError as `read_training`, and for a language without a file.
    """
    config = _annotated(config)
    _check_shots(config.data, shots)
    files = files_of(config, split)
    name = LANGUAGE if LANGUAGE in files and shots is not None and shots.language == language else language
    if name not in files:
        there = ", ".join(languages_of(config, split, shots)) or "none"
        raise UserError(f"data.{split}_files has no file for language {language}; those with one: {there}")
    return _read(config, _existing(files[name], shots), f"data.{split}_files.{language}")


def languages_of(config: FinetuneConfig, split: Split, shots: FewShot | None = None) -> list[str]:
    """The languages that a split has, in the config's order; a few-shot config validates on the run's language."""
    files = files_of(_annotated(config), split)
    return [shots.language if shots is not None and name == LANGUAGE else name for name in files]


def files_of(config: AnnotatedConfig, split: Split) -> Mapping[str, Sequence[str]]:
    """language -> files of a split, few-shot places not filled in."""
    data = config.data
    by_split = {
        "validation": data.validation_files,
        "test": data.test_files,
        "translated_test": data.translated_test_files,
    }
    return by_split[split]


def _annotated(config: FinetuneConfig) -> AnnotatedConfig:
    if not isinstance(config, AnnotatedConfig):
        raise UserError(f"task {config.task} reads pre-training data and has no annotations")
    return config


def _read(config: AnnotatedConfig, paths: Sequence[str], key: str) -> AnySet:
    if not paths:
        raise UserError(f"{key} is empty; name a file")
    if isinstance(config, RetrievalConfig):
        return _read_retrieval(config.data, paths)
    if isinstance(config, ClassificationConfig):
        return read_xvnli(paths, config.data.image_root, config.num_labels)
    if isinstance(config, AnsweringConfig):
        return read_questions(paths, config.data.image_root, read_answer_list(config.data.answer_list))
    data = config.data
    roots = PairImageRoots(nlvr2=data.image_root, marvl=data.marvl_root, marvl_few_shot=data.marvl_few_shot_root)
    return read_pairs(paths, roots)


def _read_retrieval(data: RetrievalData, paths: Sequence[str]) -> RetrievalSet:
    if data.format == "xflickrco":
        assert data.image_roots is not None  # the config's own check
        return read_xflickrco(paths, {str(name): root for name, root in data.image_roots.items()})
    if data.format == "wit":
        return read_wit(paths, data.image_tables, data.index_dir)
    return read_retrieval_lists(paths, data.image_root)


# ---------------------------------------------------------------------------------------------------------- few-shot


def _check_shots(data: AnnotatedData, shots: FewShot | None) -> None:
    if shots is None and data.few_shot:
        raise UserError("this is a few-shot config; say for which language with --fewshot, for example --fewshot ar,48")
    if shots is None:
        return
    if not data.few_shot:
        raise UserError(f"--fewshot {shots.language} needs a few-shot config, with {LANGUAGE} in data.train_files")
    fixed = not any(SHOTS in name for name in data.train_files)
    if fixed and shots.shots is not None:
        raise UserError(
            f"--fewshot {shots.language},{shots.shots}: the number of shots is fixed by data.train_files "
            f"({data.train_files[0]}); give --fewshot {shots.language} alone"
        )
    if not fixed and shots.shots is None:
        there = _numbers(data.train_files, shots.language)
        advice = f"one of {', '.join(there)}" if there else "a number"
        raise UserError(f"--fewshot {shots.language}: say how many shots, {advice}, as --fewshot {shots.language},5")


def _existing(templates: Sequence[str], shots: FewShot | None) -> list[str]:
    """File names with the run's language and shots filled in; of few-shot files, that they exist is checked here."""
    if shots is None:
        return list(templates)
    paths = []
    for template in templates:
        path = template.replace(LANGUAGE, shots.language).replace(SHOTS, shots.shots or "")
        if path != template and not storage.exists(path):
            raise UserError(f"{_no_such_shots(template, shots)}: {path} does not exist")
        paths.append(path)
    return paths


def _no_such_shots(template: str, shots: FewShot) -> str:
    numbers = _numbers((template,), shots.language)
    if SHOTS in template and numbers:
        return f"--fewshot: there are no {shots.shots} shots for {shots.language}, but {', '.join(numbers)}"
    languages = _languages(template, shots)
    known = f"; there are some for {', '.join(languages)}" if languages else ""
    return f"--fewshot: there are no annotations for language {shots.language}{known}"


def _numbers(templates: Sequence[str], language: str) -> list[str]:
    """The numbers of shots for which a language has files, by size."""
    numbers: set[str] = set()
    for template in templates:
        folder, name = posixpath.split(template.replace(LANGUAGE, language))
        if SHOTS in name:
            numbers |= _matches(folder, name, SHOTS)
    return sorted(numbers, key=lambda number: ([int(part) for part in re.findall(r"\d+", number)], number))


def _languages(template: str, shots: FewShot) -> list[str]:
    """The languages that have such files."""
    folder, name = posixpath.split(template)
    name = name.replace(SHOTS, shots.shots or "")
    if LANGUAGE in name:
        return sorted(_matches(folder, name, LANGUAGE))
    above, _, below = folder.partition(LANGUAGE)
    if not storage.is_local(above) or not os.path.isdir(storage.local_path(above)):
        return []
    folders = sorted(os.listdir(storage.local_path(above)))
    return [each for each in folders if storage.exists(f"{above}{each}{below}/{name}")]


def _matches(folder: str, name: str, gap: str) -> set[str]:
    """What stands in the gap of `name` in the names of a folder's files."""
    pattern = re.compile("(.+)".join(re.escape(part) for part in name.split(gap, 1)))
    try:
        files = storage.list_files(folder)
    except (FileNotFoundError, NotADirectoryError):
        return set()
    found = (pattern.fullmatch(posixpath.basename(file)) for file in files)
    return {match[1] for match in found if match}
