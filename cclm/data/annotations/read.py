"""Reads the annotations that a task's config names. Only this module knows which format the files of a task have."""

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
from cclm.data.annotations.annotation_sets import AnySet, FewShot, RetrievalSet
from cclm.data.annotations.flickr import read_xflickrco
from cclm.data.annotations.gqa import read_answer_list, read_questions
from cclm.data.annotations.lists import read_retrieval_lists
from cclm.data.annotations.nlvr import PairImageRoots, read_pairs
from cclm.data.annotations.wit import read_wit
from cclm.data.annotations.xvnli import read_xvnli
from cclm.errors import UserError

Split = Literal["validation", "test", "translated_test"]

AnnotatedConfig = RetrievalConfig | ClassificationConfig | AnsweringConfig | ReasoningConfig
"""Tasks that read annotation files; text assignment reads pre-training data."""


def read_training(config: FinetuneConfig, shots: FewShot | None = None) -> AnySet:
    """The annotations that a task trains on, as one set. Whether images exist is not checked here (see `missing.py`).

    Args:
        shots: the language and size of a few-shot config's files; None for any other config.

    Raises:
        UserError: with the file and the line, or the key of the config.
    """
    config = annotated(config)
    _check_shots(config.data, shots)
    return _read(config, _existing(config.data.train_files, shots), "data.train_files", training=True)


def read_evaluation(config: FinetuneConfig, split: Split, language: str, shots: FewShot | None = None) -> AnySet:
    """The annotations of a split in one of `languages_of`.

    Raises:
        UserError: as `read_training`, and for a language without a file.
    """
    config = annotated(config)
    _check_shots(config.data, shots)
    files = files_of(config, split)
    name = LANGUAGE if LANGUAGE in files and shots is not None and shots.language == language else language
    if name not in files:
        available = ", ".join(languages_of(config, split, shots)) or "none"
        raise UserError(f"data.{split}_files has no file for language {language}; those with one: {available}")
    return _read(config, _existing(files[name], shots), f"data.{split}_files.{language}", training=False)


def languages_of(config: FinetuneConfig, split: Split, shots: FewShot | None = None) -> list[str]:
    """The languages of a split, in the order of the config. A few-shot config has the language of the run."""
    files = files_of(annotated(config), split)
    return [shots.language if shots is not None and name == LANGUAGE else name for name in files]


def files_of(config: AnnotatedConfig, split: Split) -> Mapping[str, Sequence[str]]:
    """Language -> files of a split. Placeholders of a few-shot config are not filled in."""
    data = config.data
    by_split = {
        "validation": data.validation_files,
        "test": data.test_files,
        "translated_test": data.translated_test_files,
    }
    return by_split[split]


def annotated(config: FinetuneConfig) -> AnnotatedConfig:
    """`config`, which has to be of a task with annotation files. Raises UserError if it is not."""
    if not isinstance(config, AnnotatedConfig):
        raise UserError(f"task {config.task} reads pre-training data and has no annotations")
    return config


def _read(config: AnnotatedConfig, paths: Sequence[str], key: str, *, training: bool) -> AnySet:
    if not paths:
        raise UserError(f"{key} is empty; name a file")
    if isinstance(config, RetrievalConfig):
        return _read_retrieval(config.data, paths)
    if isinstance(config, ClassificationConfig):
        return read_xvnli(paths, config.data.image_root, config.num_labels)
    if isinstance(config, AnsweringConfig):
        answers = read_answer_list(config.data.answer_list)
        return read_questions(paths, config.data.image_root, answers, refuse_unlisted=training)
    data = config.data
    roots = PairImageRoots(nlvr2=data.image_root, marvl=data.marvl_root, marvl_few_shot=data.marvl_few_shot_root)
    return read_pairs(paths, roots)


def _read_retrieval(data: RetrievalData, paths: Sequence[str]) -> RetrievalSet:
    if data.format == "xflickrco":
        assert data.image_roots is not None  # the config checks this
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
        available = _available_shots(data.train_files, shots.language)
        advice = f"one of {', '.join(available)}" if available else "a number"
        raise UserError(f"--fewshot {shots.language}: say how many shots, {advice}, as --fewshot {shots.language},5")


def _existing(templates: Sequence[str], shots: FewShot | None) -> list[str]:
    """File names with the language and shots of the run filled in. Raises UserError for such a file that is missing."""
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
    numbers = _available_shots((template,), shots.language)
    if SHOTS in template and numbers:
        return f"--fewshot: there are no {shots.shots} shots for {shots.language}, but {', '.join(numbers)}"
    languages = _available_languages(template, shots)
    known = f"; there are some for {', '.join(languages)}" if languages else ""
    return f"--fewshot: there are no annotations for language {shots.language}{known}"


def _available_shots(templates: Sequence[str], language: str) -> list[str]:
    """The numbers of shots for which a language has files, in rising order."""
    numbers: set[str] = set()
    for template in templates:
        folder, name = posixpath.split(template.replace(LANGUAGE, language))
        if SHOTS in name:
            numbers |= _matches(folder, name, SHOTS)
    return sorted(numbers, key=lambda number: ([int(part) for part in re.findall(r"\d+", number)], number))


def _available_languages(template: str, shots: FewShot) -> list[str]:
    """The languages that have files of the wanted number of shots."""
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
    """What stands in the place of `gap` of `name`, for each file of the folder whose name matches otherwise."""
    pattern = re.compile("(.+)".join(re.escape(part) for part in name.split(gap, 1)))
    try:
        files = storage.list_files(folder)
    except (FileNotFoundError, NotADirectoryError):
        return set()
    found = (pattern.fullmatch(posixpath.basename(file)) for file in files)
    return {match[1] for match in found if match}
