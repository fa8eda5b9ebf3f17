"""`cclm data check`: read what a config names before training does, with a report for each source and split."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import get_args

from cclm import storage
from cclm.config.finetune import FinetuneConfig, TextAssignmentConfig
from cclm.config.pretrain import PretrainConfig
from cclm.config.sources import DataConfig
from cclm.data.annotations.annotation_sets import FewShot
from cclm.data.annotations.lists import read_retrieval_list
from cclm.data.annotations.read import Split, annotated, files_of, languages_of, read_evaluation, read_training
from cclm.data.commands.check_annotations import check_annotations
from cclm.data.commands.check_records import check_plain_source, check_source
from cclm.data.commands.check_report import SplitReport
from cclm.data.commands.sampling import Sampling
from cclm.data.examples.pretraining_examples import SOURCES
from cclm.errors import UserError


def check_pretraining(config: PretrainConfig, sampling: Sampling) -> list[SplitReport]:
    """Reports on the sources and the held-out lists of a pre-training config."""
    reports = []
    for kind in SOURCES:
        source = getattr(config.data, kind)
        if source is not None:
            report = SplitReport(f"data.{kind}", "training")
            reports.append(_filled(report, partial(check_source, source, config, kind, sampling)))
            _note_small(report, source.batch_size)
    evaluation = config.evaluation
    if evaluation is not None:
        for language, path in evaluation.files.items():
            read = partial(read_retrieval_list, path, evaluation.image_root)
            report = SplitReport("evaluation", "held out", language, files=1)
            reports.append(_filled(report, partial(check_annotations, read, sampling, "error")))
    return reports


def check_finetuning(config: FinetuneConfig, sampling: Sampling, shots: FewShot | None) -> list[SplitReport]:
    """Reports on the splits of a fine-tuning config, one for each language."""
    if isinstance(config, TextAssignmentConfig):
        report = SplitReport("data.images", "training")
        data = DataConfig(images=config.data.images, index_dir=config.data.index_dir)
        _filled(report, partial(check_plain_source, config.data.images, data, sampling))
        _note_small(report, config.data.images.batch_size)
        return [report]
    config = annotated(config)
    policy = config.data.missing_images
    report = SplitReport(config.task, "training", shots.language if shots else "", files=len(config.data.train_files))
    read = partial(read_training, config, shots)
    reports = [_filled(report, partial(check_annotations, read, sampling, policy))]
    _note_small(report, config.training.batch_size)
    split: Split
    for split in get_args(Split):
        names = zip(languages_of(config, split, shots), files_of(config, split).values(), strict=True)
        for language, files in names:
            report = SplitReport(config.task, split.replace("_", " "), language, files=len(files))
            read = partial(read_evaluation, config, split, language, shots)
            reports.append(_filled(report, partial(check_annotations, read, sampling, policy)))
    return reports


def _note_small(report: SplitReport, batch_size: int) -> None:
    """Note where a batch needs more than there is: training then takes what is there more than once."""
    if not report.problem and report.count < batch_size:
        note = f"fewer than a batch of {batch_size}"
        report.detail = f"{report.detail}; {note}" if report.detail else note


def _filled(report: SplitReport, fill: Callable[[SplitReport], None]) -> SplitReport:
    """`report` after `fill`. An error becomes its problem, so that one check finds all problems of a config."""
    try:
        fill(report)
    except storage.StoreUnavailable:
        raise
    except (UserError, OSError) as error:
        report.problem = str(error)
    return report


def missing_places(config: PretrainConfig | FinetuneConfig) -> list[str]:
    """A sentence for each file or folder that the model is to start from and that does not exist."""
    model = config.model
    named = {
        "model.weights": model.weights,
        "model.vision.weights": None if model.weights else model.vision.weights,
        "model.text.weights": None if model.weights else model.text.weights,
    }
    return [
        f"{key}: {place} does not exist; correct the path or fetch the file"
        for key, place in named.items()
        if place is not None and not storage.exists(place)
    ]
