"""GQA and xGQA: questions about images, in three file formats, and the list of all answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cclm import storage
from cclm.data.annotations.annotation_sets import ImageRef, QuestionEntry, QuestionSet
from cclm.data.annotations.source import Record, file_size, join, read_document, read_lines, records_of_list, shown
from cclm.errors import UserError

_MAX_ID_DIGITS = 18
"""A question id with more digits is a mistake. Python itself refuses to convert thousands of digits."""


def read_answer_list(path: str) -> list[str]:
    """All answers, in the order of the file, which is a JSON object {answer: number} or a list of answers.

    Raises UserError if it is anything else, or empty, or has an answer twice.
    """
    document = read_document(path)
    answers = list(document) if isinstance(document, dict | list) else []
    if not answers or not all(isinstance(answer, str) and answer for answer in answers):
        raise UserError(f"{path}: a JSON object {{answer: number}} is expected, but it is {shown(document)}")
    if len(set(answers)) < len(answers):
        double = next(answer for i, answer in enumerate(answers) if answer in answers[:i])
        raise UserError(f"{path}: the answer {double!r} is there twice; keep one")
    return answers


def read_questions(
    paths: Sequence[str], image_root: str, answers: Iterable[str], *, refuse_unlisted: bool = True
) -> QuestionSet:
    """The questions of all files as one set. A file has one of three forms:

    - a list of `{"img_id", "question_id", "sent", "label": {answer: weight}}` (GQA); the weights are ignored;
    - an object `question id -> {"imageId", "question", "answer"}` (xGQA);
    - a list or lines of `{"question_id", "question", "image", "answer"}`, where the image is a file name.

    Images are under `image_root`; they are not opened.

    Args:
        answers: the answer list.
        refuse_unlisted: whether an answer that is not in the list is an error, as in training. In evaluation it is not:
            the published answer list lacks the answers of some test questions. They stay, and count as wrong.

    Raises:
        UserError: with the file and the question, for a broken record or an answer that is refused.
    """
    known = frozenset(answers)
    entries = []
    shared = _SharedValues()
    for path in paths:
        for record in _records(path):
            entry = _entry(record, image_root, shared)
            for answer in entry.answers if refuse_unlisted else ():
                if answer not in known:
                    raise UserError(
                        f"{record.place}: the answer {answer!r} is not among the {len(known)} of data.answer_list; "
                        "correct it or name the list that has it"
                    )
            entries.append(entry)
    return QuestionSet(files=tuple(paths), entries=entries, answer_list=known)


def _records(path: str) -> Iterator[Record]:
    file_size(path)
    try:
        document = json.loads(storage.read_bytes(path))
    except (ValueError, RecursionError) as error:
        if getattr(error, "msg", "") != "Extra data":
            raise UserError(f"{path}: not a JSON file: {error}") from None
        document = None  # lines of JSON
    if document is None or (isinstance(document, dict) and "question" in document):
        yield from read_lines(path)
    elif isinstance(document, dict) and document:
        for identity, fields in document.items():
            place = f"{path}, question {identity}"
            if not isinstance(fields, dict):
                raise UserError(f"{place}: not an object, but {shown(fields)}")
            yield Record({"question_id": identity, **fields}, place)
    else:
        yield from records_of_list(document, path)


@dataclass(frozen=True)
class _SharedValues:
    """Keeps equal images and answers as one object, since a million questions name few different ones."""

    images: dict[str, ImageRef] = field(default_factory=dict)
    answers: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)


def _entry(record: Record, image_root: str, shared: _SharedValues) -> QuestionEntry:
    fields = record.fields
    if "sent" in fields:
        image, question, answers = f"{record.name('img_id')}.jpg", "sent", _weighted_answers(record)
    elif "imageId" in fields:
        image, question, answers = f"{record.name('imageId')}.jpg", "question", (record.text("answer"),)
    else:
        image, question, answers = record.name("image"), "question", (record.text("answer"),)
    text = record.text(question)
    if not text.strip():
        raise UserError(f"{record.place}: {question} is empty; write a question or remove the record")
    if image not in shared.images:
        shared.images[image] = ImageRef(join(image_root, image))
    answers = shared.answers.setdefault(answers, answers)
    return QuestionEntry(_question_id(record), shared.images[image], text, answers, record.place)


def _weighted_answers(record: Record) -> tuple[str, ...]:
    label: Any = record.fields.get("label")
    if not isinstance(label, dict) or not label:
        raise UserError(f"{record.place}: label has to be an object {{answer: weight}}, but it is {shown(label)}")
    return tuple(label)


def _question_id(record: Record) -> int:
    """Ids are numbers: `02930152` and 2930152 are the same question."""
    name = record.name("question_id")
    if not name.isascii() or not name.isdigit() or len(name) > _MAX_ID_DIGITS:
        raise UserError(f"{record.place}: question_id has to be a number, but it is {shown(name)}")
    return int(name)
