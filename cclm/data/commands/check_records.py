"""Checks the records of one pre-training source: a sample is read as training reads it."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cclm import storage
from cclm.config.pretrain import PretrainConfig
from cclm.config.sources import (
    BrokenRecordsConfig,
    DataConfig,
    ImageTextSource,
    ParallelTextSource,
    RegionSource,
    SourceConfig,
)
from cclm.data.annotations.source import is_blank
from cclm.data.cleaning import first_words, is_single_word
from cclm.data.commands.check_report import SplitReport
from cclm.data.commands.sampling import Sampling, for_each
from cclm.data.examples.images import decode, open_image
from cclm.data.examples.pretraining_examples import SOURCES, example_builder, example_rng
from cclm.data.examples.tokenizer import load_tokenizer
from cclm.data.stored import records
from cclm.data.stored.formats import Format
from cclm.data.stored.index import FileIndex, open_indexes
from cclm.data.stored.records import BrokenRecord
from cclm.errors import UserError

_SHOWN_LANGUAGES = 6
_FIRST_OF_FILE = 3  # records of each file that are read, besides the sample of the whole source
_MORE_OF_BROKEN_FILE = 20  # records that are read of a file of which all of these are broken


class _RecordUse(Protocol):
    """What a check does with a record that could be parsed. Raises BrokenRecord."""

    def __call__(self, data: bytes, number: int, format: Format) -> None:
        """`number` counts over all files of the source."""


def check_source(
    source: SourceConfig, config: PretrainConfig, kind: str, sampling: Sampling, report: SplitReport
) -> None:
    """Read records as training does: parse, clean, tokenise, decode and crop. Fills in the report.

    Raises:
        UserError: the files cannot be used at all.
    """
    try:
        tokenizer = load_tokenizer(config.model.text.tokenizer)
    except UserError:  # The command reports this once, for the whole config.
        check_plain_source(source, config.data, sampling, report)
        return

    def make_example(data: bytes, number: int, format: Format) -> None:
        build = example_builder(kind, config, tokenizer, format)
        undecoded = build(data, example_rng(config.seed, SOURCES.index(kind), 0, number))
        if undecoded.decode is not None:
            undecoded.decode()

    _check_files(report, source, config.data, sampling, make_example)


def check_plain_source(source: SourceConfig, data: DataConfig, sampling: Sampling, report: SplitReport) -> None:
    """Read records and decode their images, without a tokenizer. Fills in the report; raises as `check_source`."""

    def decode_image(data: bytes, number: int, format: Format) -> None:
        parsed = _parse(data, source, format)
        if not isinstance(parsed, records.ParallelTextRecord):
            decode(open_image(parsed.image))

    _check_files(report, source, data, sampling, decode_image)


@dataclass
class _FileCheck:
    """What was found in one file."""

    index: FileIndex
    start: int
    """Number of its first record, over all files of the source."""
    examined: int = 0
    broken: int = 0
    first_broken: int = 0
    """The first broken record of those that were examined, by its number in the file."""
    reason: str = ""
    """What is wrong with that record."""

    def add(self, record: int, error: BrokenRecord | None) -> None:
        """Count a record that was examined; None: it is good."""
        self.examined += 1
        if error is None:
            return
        if self.broken == 0 or record < self.first_broken:
            self.first_broken, self.reason = record, str(error)
        self.broken += 1

    def describe_first_broken(self) -> str:
        """Where the first broken record is, and what is wrong with it. Reads the file up to there."""
        return f"{_place(self.index, self.first_broken)}: {self.reason}"

    def would_stop_training(self, limits: BrokenRecordsConfig, records: int) -> bool:
        """Whether all its examined records are broken, and it has enough records to stop training.

        `records` is the number of records of the source.
        """
        own = self.index.num_records
        return 0 < self.examined == self.broken and (own >= limits.max_in_a_row or own > limits.max_rate * records)


def _check_files(
    report: SplitReport, source: SourceConfig, data: DataConfig, sampling: Sampling, use: _RecordUse
) -> None:
    """Read a sample of all records, the first ones of each file, and more of a file where all of these are broken."""
    files, count = [], 0
    for index in open_indexes(report.name, source.files, data.index_dir):
        files.append(_FileCheck(index, count))
        count += index.num_records
    report.files, report.count = len(files), count
    starts, lock, languages = [file.start for file in files], threading.Lock(), Counter[str]()
    word_lists: dict[int, str] = {}  # number of the record -> the words

    def examine(number: int) -> None:
        file = files[bisect_right(starts, number) - 1]
        record = number - file.start
        start, end = file.index.byte_range(record, record + 1)
        content = storage.read_range(file.index.url, start, end)
        found: set[str] = set()
        words = broken = None
        try:
            parsed = _parse(content, source, file.index.format)
            found, words = _languages(parsed), _list_of_words(parsed)
            use(content, number, file.index.format)
        except BrokenRecord as error:
            broken = error
        with lock:
            languages.update(found)
            if words is not None:
                word_lists[number] = words
            report.examined += 1
            if broken is not None:
                report.broken[broken.kind] += 1
            file.add(record, broken)

    numbers = sampling.choose(count)
    for_each(examine, numbers, sampling.advance)
    # Only this sample is even. The records read below are not, so they do not count for the rate.
    broken_rate = report.broken.total() / len(numbers)
    if len(numbers) < count:
        done = set(numbers)

        def examine_more(of: Iterable[_FileCheck], choose: Callable[[int], Sequence[int]]) -> None:
            more = {file.start + record for file in of for record in choose(file.index.num_records)} - done
            done.update(more)
            for_each(examine, sorted(more), sampling.advance)

        examine_more(files, lambda records: range(min(_FIRST_OF_FILE, records)))
        examine_more([file for file in files if file.examined == file.broken], Sampling(_MORE_OF_BROKEN_FILE).choose)
    report.detail = next((file.describe_first_broken() for file in files if file.broken), "")
    report.problem = _problem(files, data.broken, count, broken_rate, report.detail)
    if not report.detail:
        report.detail = _describe_captions({name: n / report.examined for name, n in languages.most_common()})
    if word_lists:
        first = min(word_lists)
        file = files[bisect_right(starts, first) - 1]
        shown = f"{_place(file.index, first - file.start)}: {word_lists[first]}"
        note = f"{len(word_lists)} caption lists of single words, each taken for a caption of its own ({shown}); "
        report.detail += f"{'; ' if report.detail else ''}{note}join them if they are the words of one caption"


def _problem(
    files: Sequence[_FileCheck], limits: BrokenRecordsConfig, count: int, broken_rate: float, first_broken: str
) -> str | None:
    """Why training would stop, or None. `count` is the number of records of the source."""
    lost = [file for file in files if file.would_stop_training(limits, count)]
    if lost:
        others = f", and so in {len(lost) - 1} more files" if len(lost) > 1 else ""
        return (
            f"all {lost[0].examined} records looked at in {lost[0].index.url} are broken{others}: "
            f"{lost[0].describe_first_broken()}; "
            "correct the keys in the config, mend the files, or leave them out"
        )
    if broken_rate > limits.max_rate:
        allowed = f"data.broken.max_rate allows {limits.max_rate:.2%}"
        return f"{broken_rate:.2%} of the records are broken, {allowed}: {first_broken}"
    return None


def _place(index: FileIndex, record: int) -> str:
    line = index.line_number(record)
    return f"{index.url} at byte {index.byte_range(record, record)[0]}" if line is None else f"{index.url}:{line}"


def _parse(
    data: bytes, source: SourceConfig, format: Format
) -> records.ImageTextRecord | records.RegionRecord | records.ParallelTextRecord:
    if isinstance(source, ParallelTextSource):
        return records.parse_parallel_text(data, source, format)
    if isinstance(source, RegionSource):
        return records.parse_region(data, source, format)
    assert isinstance(source, ImageTextSource)
    return records.parse_image_text(data, source, format)


def _languages(record: records.ImageTextRecord | records.RegionRecord | records.ParallelTextRecord) -> set[str]:
    """Languages with a caption in a record; those of the boxes if the whole image has no caption."""
    if isinstance(record, records.ParallelTextRecord):
        return set()
    captions = record.captions
    if isinstance(record, records.RegionRecord) and captions is None:
        captions = tuple(choice for element in record.elements for choice in element.captions)
    found = {
        language
        for choice in captions or ()
        for language, texts in choice.items()
        if not all(is_blank(text) for text in texts)
    }
    return found - {records.ANY_LANGUAGE}


def _list_of_words(record: records.ImageTextRecord | records.RegionRecord | records.ParallelTextRecord) -> str | None:
    """The start of a list of captions that are one word each, which may be one caption cut into words; else None."""
    if isinstance(record, records.ParallelTextRecord):
        return None
    described = [] if record.captions is None else [record.captions]
    if isinstance(record, records.RegionRecord):
        described += [element.captions for element in record.elements]
    for captions in described:
        by_language: dict[str, list[str]] = {}
        for choice in captions:
            for language, of_choice in choice.items():
                by_language.setdefault(language, []).extend(text for text in of_choice if not is_blank(text))
        for texts in by_language.values():
            if len(texts) > 1 and all(map(is_single_word, texts)):
                return first_words(texts)
    return None


def _describe_captions(shares: dict[str, float]) -> str:
    """`shares`: language -> part of the records that have a caption in it, largest first."""
    names = [name if share > 0.995 else f"{name} {share:.0%}" for name, share in shares.items()]
    more = f" and {len(names) - _SHOWN_LANGUAGES} more" if len(names) > _SHOWN_LANGUAGES else ""
    return f"captions: {', '.join(names[:_SHOWN_LANGUAGES])}{more}" if names else ""
