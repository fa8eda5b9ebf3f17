"""What a config points at, looked through before training: a row for each source and split, and what is wrong there."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from cclm import storage
from cclm.config.finetune import FinetuneConfig, TextAssignmentConfig
from cclm.config.pretrain import PretrainConfig
from cclm.config.sources import (
    BrokenRecordsConfig,
    DataConfig,
    ImageTextSource,
    ParallelTextSource,
    RegionSource,
    SourceConfig,
)
from cclm.data.annotations.lists import read_retrieval_list
from cclm.data.annotations.missing import missing_files, wanted_images
from cclm.data.annotations.read import files_of, languages_of, read_evaluation, read_training
from cclm.data.annotations.types import AnySet, FewShot, ImageRef
from cclm.data.examples.images import decode, open_image
from cclm.data.examples.pretraining_examples import SOURCES, example_builder, example_rng
from cclm.data.examples.tokenizer import load_tokenizer
from cclm.data.stored import records
from cclm.data.stored.formats import Format
from cclm.data.stored.index import FileIndex, open_indexes
from cclm.data.stored.records import BrokenRecord
from cclm.errors import UserError

_AT_ONCE = 16
_SHOWN_LANGUAGES = 6
_FIRST = 3  # records of each file that are looked at, besides the sample of all
_AGAIN = 20  # more of a file where all of these are broken
_BATCH = 256  # records or images between two looks at the progress bar

Advance = Callable[[int], object]


@dataclass
class Row:
    """One source or split."""

    name: str
    split: str = ""
    language: str = ""
    files: int = 0
    count: int = 0
    """Records; annotations that are used."""
    looked_at: int = 0
    """Records or images that were read."""
    broken: Counter[str] = field(default_factory=Counter)
    """Those of them that cannot be used, by kind."""
    dropped: int = 0
    """Annotations that the data set's own rules leave out."""
    detail: str = ""
    problem: str | None = None
    """What keeps the run from being started."""

    @property
    def told(self) -> str:
        """The problem, with its place."""
        place = " ".join(part for part in (self.name, self.split, self.language) if part)
        return self.problem if self.problem.startswith(self.name) else f"{place}: {self.problem}"


@dataclass(frozen=True)
class Look:
    """How close to look."""

    sample: int | None
    """Records or images of each source that are read, evenly spread; None: all."""
    advance: Advance = lambda _: None

    def choose(self, count: int) -> Sequence[int]:
        if self.sample is None or count <= self.sample:
            return range(count)
        return np.linspace(0, count - 1, self.sample).astype(int).tolist()


def check_pretraining(config: PretrainConfig, look: Look) -> list[Row]:
    """The sources and held-out lists of a pre-training config."""
    rows = []
    for kind in SOURCES:
        source = getattr(config.data, kind)
        if source is not None:
            rows.append(_guarded(Row(f"data.{kind}", "training"), partial(_records, source, config, kind, look)))
    evaluation = config.evaluation
    for language, path in evaluation.files.items() if evaluation else ():
        read = partial(read_retrieval_list, path, evaluation.image_root)
        row = Row("evaluation", "held out", language, files=1)
        rows.append(_guarded(row, partial(_annotations, read, look, "error")))
    return rows


def check_finetuning(config: FinetuneConfig, look: Look, shots: FewShot | None) -> list[Row]:
    """The splits of a fine-tuning config, language by language."""
    if isinstance(config, TextAssignmentConfig):
        row = Row("data.images", "training")
        data = DataConfig(images=config.data.images, index_dir=config.data.index_dir)
        return [_guarded(row, partial(_plain_records, data.images, data, look))]
    policy = config.data.missing_images
    row = Row(config.task, "training", shots.language if shots else "", files=len(config.data.train_files))
    rows = [_guarded(row, partial(_annotations, partial(read_training, config, shots), look, policy))]
    for split in ("validation", "test", "translated_test"):
        names = zip(languages_of(config, split, shots), files_of(config, split).values(), strict=True)
        for language, files in names:
            row = Row(config.task, split.replace("_", " "), language, files=len(files))
            read = partial(read_evaluation, config, split, language, shots)
            rows.append(_guarded(row, partial(_annotations, read, look, policy)))
    return rows


def _guarded(row: Row, fill: Callable[[Row], None]) -> Row:
    """`row`, filled in; what is wrong becomes its problem, so that one look finds all there is."""
    try:
        fill(row)
    except storage.StoreUnavailable:
        raise
    except (UserError, OSError) as error:
        row.problem = str(error)
    return row


# ----------------------------------------------------------------------------------------------------------- records


def _records(source: SourceConfig, config: PretrainConfig, kind: str, look: Look, row: Row) -> None:
    """Read records as training does: parse, clean, tokenise, decode and crop."""
    try:
        tokenizer = load_tokenizer(config.model.text.tokenizer)
    except UserError:  # told once, for the config
        _plain_records(source, config.data, look, row)
        return

    def use(data: bytes, number: int, format: Format) -> None:
        build = example_builder(kind, config, tokenizer, format)
        undecoded = build(data, example_rng(config.seed, SOURCES.index(kind), 0, number))
        if undecoded.decode is not None:
            undecoded.decode()

    _look_at(row, source, config.data, look, use)


def _plain_records(source: SourceConfig, data: DataConfig, look: Look, row: Row) -> None:
    """Read records and decode their images, without a tokenizer."""

    def use(data: bytes, number: int, format: Format) -> None:
        parsed = _parse(data, source, format)
        if not isinstance(parsed, records.ParallelTextRecord):
            decode(open_image(parsed.image))

    _look_at(row, source, data, look, use)


@dataclass
class _File:
    """What was seen of one file."""

    index: FileIndex
    start: int
    """Number of its first record, over all files."""
    looked_at: int = 0
    broken: int = 0
    first: int = 0
    """The first broken record."""
    reason: str = ""
    """What is wrong with it."""

    def add(self, record: int, error: BrokenRecord | None) -> None:
        self.looked_at += 1
        if error is None:
            return
        if self.broken == 0 or record < self.first:
            self.first, self.reason = record, str(error)
        self.broken += 1

    @property
    def told(self) -> str:
        """The first broken record's place, and what is wrong with it; "" if there is none."""
        return f"{_place(self.index, self.first)}: {self.reason}" if self.broken else ""

    def is_lost(self, limits: BrokenRecordsConfig, records: int) -> bool:
        """Whether all that was seen of it is broken, and it is large enough to stop training."""
        own = self.index.num_records
        return 0 < self.looked_at == self.broken and (own >= limits.max_in_a_row or own > limits.max_rate * records)


def _look_at(
    row: Row, source: SourceConfig, data: DataConfig, look: Look, use: Callable[[bytes, int, Format], None]
) -> None:
    """Read a sample of all records, the first ones of each file, and more of a file where all of these are broken."""
    files, count = [], 0
    for index in open_indexes(row.name, source.files, data.index_dir):
        files.append(_File(index, count))
        count += index.num_records
    row.files, row.count = len(files), count
    starts, lock, languages = [file.start for file in files], threading.Lock(), Counter[str]()

    def one(number: int) -> None:
        file = files[bisect_right(starts, number) - 1]
        record = number - file.start
        start, end = file.index.byte_range(record, record + 1)
        content, found, broken = storage.read_range(file.index.url, start, end), set[str](), None
        try:
            found = _languages(_parse(content, source, file.index.format))
            use(content, number, file.index.format)
        except BrokenRecord as error:
            broken = error
        with lock:
            languages.update(found)
            row.looked_at += 1
            row.broken.update([broken.kind] if broken else [])
            file.add(record, broken)

    numbers = look.choose(count)
    _each(one, numbers, look.advance)
    part = row.broken.total() / len(numbers)  # of an even sample: what follows is none
    if len(numbers) < count:
        done = set(numbers)

        def look_closer(at: Iterable[_File], wanted: Callable[[int], Sequence[int]]) -> None:
            more = {file.start + record for file in at for record in wanted(file.index.num_records)} - done
            done.update(more)
            _each(one, sorted(more), look.advance)

        look_closer(files, lambda records: range(min(_FIRST, records)))
        look_closer([file for file in files if file.looked_at == file.broken], Look(_AGAIN).choose)
    row.detail = next((file.told for file in files if file.broken), "")
    lost = [file for file in files if file.is_lost(data.broken, count)]
    if lost:
        others = f", and so in {len(lost) - 1} more files" if len(lost) > 1 else ""
        row.problem = (
            f"all {lost[0].looked_at} records looked at in {lost[0].index.url} are broken{others}: {lost[0].told}; "
            "correct the keys in the config, mend the files, or leave them out"
        )
    elif part > data.broken.max_rate:
        allowed = f"data.broken.max_rate allows {data.broken.max_rate:.2%}"
        row.problem = f"{part:.2%} of the records are broken, {allowed}: {row.detail}"
    row.detail = row.detail or _shown({name: count / row.looked_at for name, count in languages.most_common()})


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
    """Languages of a record's captions; those of the boxes where the whole image has none."""
    if isinstance(record, records.ParallelTextRecord):
        return set()
    captions = record.captions
    if captions is None:
        captions = tuple(choice for element in record.elements for choice in element.captions)
    return {language for choice in captions for language in choice} - {records.ANY_LANGUAGE}


def _shown(shares: dict[str, float]) -> str:
    names = [name if share > 0.995 else f"{name} {share:.0%}" for name, share in shares.items()]
    more = f" and {len(names) - _SHOWN_LANGUAGES} more" if len(names) > _SHOWN_LANGUAGES else ""
    return f"captions: {', '.join(names[:_SHOWN_LANGUAGES])}{more}" if names else ""


# ------------------------------------------------------------------------------------------------------- annotations


def _annotations(read: Callable[[], AnySet], look: Look, policy: str, row: Row) -> None:
    """Count, find every image file, and decode some of the images."""
    annotations = read()
    row.count, row.dropped = len(annotations), sum(annotations.dropped.values())
    places: dict[ImageRef, str] = {}
    for image, place in wanted_images(annotations):
        places.setdefault(image, place)
    missing = missing_files({image.url for image in places})
    there = [image for image in places if image.url not in missing]
    row.detail = f"{len(places):,} images"
    if missing:
        row.broken["missing image"] = len(places) - len(there)
        image = next(image for image in places if image.url in missing)
        row.detail += f", {row.broken['missing image']:,} missing"
        if policy == "error" or not there:
            row.problem = f"{places[image]}: the image {image.url} does not exist ({row.detail})"
    first: list[str] = []

    def one(number: int) -> None:
        image = there[number]
        try:
            decode(open_image(image.read()))
        except BrokenRecord as error:
            row.broken[error.kind] += 1
            first.append(f"{places[image]}: the image {image.url} cannot be read ({error.detail}); fetch it again")

    numbers = look.choose(len(there))
    row.looked_at = len(numbers)
    _each(one, numbers, look.advance)
    if first and row.problem is None:
        row.problem = min(first)


def _each(one: Callable[[int], None], numbers: Sequence[int], advance: Advance) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # JPEGs decode outside of Python's lock, and stores answer slowly
        for at in range(0, len(numbers), _BATCH):
            part = numbers[at : at + _BATCH]
            list(pool.map(one, part))
            advance(len(part))


def check_table(rows: Iterable[Row]) -> str:
    """One line a row, columns aligned."""
    cells = [("source", "split", "language", "files", "records", "dropped", "read", "broken", "")]
    for row in rows:
        broken = ", ".join(f"{count} {kind}" for kind, count in sorted(row.broken.items())) or "0"
        numbers = (f"{row.files:,}", f"{row.count:,}", f"{row.dropped:,}", f"{row.looked_at:,}", broken)
        note = "NOT usable" if row.problem else row.detail
        cells.append((row.name, row.split, row.language, *numbers, note))
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    text = []
    for line in cells:
        left = [cell.ljust(width) for cell, width in zip(line[:3], widths[:3], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(line[3:8], widths[3:8], strict=True)]
        text.append("  ".join([*left, *right, line[8]]).rstrip())
    return "\n".join(text)


def missing_places(config: PretrainConfig | FinetuneConfig) -> list[str]:
    """What the model is to start from and is not there, a sentence each."""
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
