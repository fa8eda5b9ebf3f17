"""Reads annotation files: lines of JSON, or one JSON document. Errors name the file and the line."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from cclm import storage
from cclm.data.cleaning import EmptyTextError, clean_caption
from cclm.data.stored.spelling import advice_on_spelling
from cclm.errors import UserError, advice_on_missing

_BLOCK = 8 << 20  # bytes of one read
_NO_LIMIT = 1 << 30


@dataclass(frozen=True, slots=True)
class Record:
    """One annotation: a JSON object, and where it is."""

    fields: dict[str, Any]
    place: str
    """`file:line`, or `file, entry n` in a list."""
    start: int = 0
    """First byte of the line."""
    line: bytes = b""
    """The line itself; empty for an entry of a list."""

    def text(self, key: str) -> str:
        """The field, which has to be text. Raises UserError if it is not."""
        value = self._field(key)
        if not isinstance(value, str):
            raise UserError(f"{self.place}: {key} has to be a text, but it is {shown(value)}")
        return value

    def caption(self, key: str) -> str:
        """The field, which has to be text that is not empty after cleaning. Raises UserError if it is not."""
        text = self.text(key)
        if is_blank(text):
            raise UserError(f"{self.place}: {key} is empty ({text!r}); write a sentence or remove the record")
        return text

    def texts(self, key: str) -> list[str]:
        """The field, which has to be a text or a list of texts. Raises UserError if it is not."""
        value = self._field(key)
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"{self.place}: {key} has to be a text or a list of texts, but it is {shown(value)}")
        return texts

    def name(self, key: str) -> str:
        """The field, which has to be a name: text, or a number without quotes. Raises UserError if it is not."""
        value = self._field(key)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise UserError(f"{self.place}: {key} has to be a name, but it is {shown(value)}")
        return str(value)

    def _field(self, key: str) -> Any:
        if key not in self.fields:
            raise UserError(f"{self.place}: {key} is missing; the record has {', '.join(self.fields) or 'no fields'}")
        return self.fields[key]


def read_lines(path: str) -> Iterator[Record]:
    """The records of a line-JSON file, read in blocks. Blank lines are passed over.

    Raises:
        UserError: the file is missing or has no record, or a line is not a JSON object.
    """
    number = 0
    empty = True
    for line in scan_lines(path):
        number += 1
        if line.content.strip():
            empty = False
            place = f"{path}:{number}"
            yield Record(_object(line.content, place), place, line.start, line.content)
    if empty:
        raise UserError(f"{path}: the file holds no annotation")


class Line(NamedTuple):
    """A line of a file."""

    start: int
    """Its first byte."""
    content: bytes
    """The line without its line break."""


def scan_lines(path: str) -> Iterator[Line]:
    """Every line of a file, blank ones too. Raises UserError if the file is missing."""
    size = file_size(path)
    base, rest = 0, b""  # `rest` is the unfinished line at the end of the last block; its first byte is `base`
    for at in range(0, size, _BLOCK):
        block = rest + storage.read_range(path, at, min(at + _BLOCK, size))
        *lines, rest = block.split(b"\n")
        for line in lines:
            yield Line(base, line)
            base += len(line) + 1
    if rest:
        yield Line(base, rest)


def read_list(path: str) -> list[Record]:
    """The records of a file that is a JSON list of objects, with at least one object.

    Raises:
        UserError: with the file and the entry.
    """
    return records_of_list(read_document(path), path)


def records_of_list(document: Any, path: str) -> list[Record]:
    """The records of a parsed JSON list; raises as `read_list`."""
    if not isinstance(document, list):
        raise UserError(f"{path}: a list of annotations is expected, but it is {shown(document)}")
    if not document:
        raise UserError(f"{path}: the list is empty; at least one annotation is expected")
    records = []
    for i, entry in enumerate(document):
        if not isinstance(entry, dict):
            raise UserError(f"{path}, entry {i}: not an object, but {shown(entry)}")
        records.append(Record(entry, f"{path}, entry {i}"))
    return records


def read_document(path: str) -> Any:
    """The content of a JSON file. Raises UserError if the file is missing or not JSON."""
    file_size(path)
    try:
        return json.loads(storage.read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file: {error}") from None


def starts_with_list(path: str) -> bool:
    """Whether the file is a JSON list, not lines or an object. Raises UserError if it is missing."""
    start = storage.read_range(path, 0, min(file_size(path), 4096))
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def file_size(path: str) -> int:
    """Bytes of an annotation file. Raises UserError, with advice, if the file is missing."""
    try:
        if storage.is_local(path) and os.path.isdir(storage.local_path(path)):
            raise UserError(f"the annotation file {path} is a folder; name the file in it")
        return storage.size(path)
    except (FileNotFoundError, NotADirectoryError):
        advice = advice_on_missing(path, advice_on_spelling(path, "correct the path"))
        for packed in (f"{path}.zip", f"{path}.gz"):
            if storage.is_local(packed) and storage.exists(packed):
                advice = f"unpack {posixpath.basename(packed)}, which lies beside it"
        raise UserError(f"the annotation file {path} does not exist; {advice}") from None


def is_blank(text: str) -> bool:
    """Whether a caption is empty after cleaning."""
    try:
        clean_caption(text, _NO_LIMIT)
    except EmptyTextError:
        return True
    return False


def join(folder: str, name: str) -> str:
    """The path of `name` in `folder`; `name` itself if `folder` is empty."""
    return posixpath.join(folder, name) if folder else name


def shown(value: Any) -> str:
    """A JSON value for a message, at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _object(line: bytes, place: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON ({error}); mend or remove the line") from None
    if not isinstance(fields, dict):
        raise UserError(f"{place}: not an object, but {shown(fields)}")
    return fields
