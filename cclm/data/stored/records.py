"""Parses the bytes of a record into a typed record, or raises BrokenRecord, which says what is wrong with them.

A record is a line of JSON or some members of a tar shard. In a tar, `.json` holds the same fields as a line; the image
may be a member of its own (`.jpg` ...), and so may the caption (`.txt`). Only JSON and base64 are decoded here. Images
are decoded and texts tokenised later (`cclm.data.examples`), where the same error shows that a record is broken.
"""

from __future__ import annotations

import binascii
import errno
import posixpath
import uuid
from codecs import BOM_UTF8
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson  # half the time of json
import pybase64  # a twentieth of the time of binascii

from cclm import storage
from cclm.config.sources import ImageTextSource, ParallelTextSource
from cclm.data.stored.formats import Format
from cclm.data.stored.spelling import advice_on_spelling
from cclm.data.stored.tar import DamagedTarError, members_of_record


class BrokenRecord(Exception):
    """A record that training skips. Records are counted by `kind`; `detail` says what is wrong with this one."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


NOT_JSON = "not JSON"
MISSING_KEY = "missing key"
WRONG_TYPE = "wrong type"
BAD_BASE64 = "bad base64"
MISSING_IMAGE = "missing image file"
BROKEN_IMAGE = "broken image"
BROKEN_TAR = "broken tar members"
EMPTY_CAPTION = "empty caption"
NO_LANGUAGE = "no caption in a language of the config"
NO_SECOND_CAPTION = "no second caption"
EMPTY_TEXT = "empty text"
BOX_OUTSIDE = "box outside the image"
NO_TEXT = "no region and no caption"

ANY_LANGUAGE = ""
"""The language of a text whose language is not given."""

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
"""Extensions of the members of tar shards that are images."""

_OTHER_IMAGE_EXTENSIONS = ("tif", "tiff", "jp2", "pgm", "ppm")
"""Those where there is none of IMAGE_EXTENSIONS. Beside one, such a member is often a mask: it is ignored."""

_TAKEN_OUT = uuid.uuid4().hex.encode()
"""Takes the place of the image in a line while the rest is parsed. No data contain this text."""

_SHOWN_MEMBERS = 4
_DOTS = (
    "the key of a record ends at the first dot of a file's name, so that of IMG_2021.03.04.jpg is IMG_2021; name the "
    "files without other dots"
)
_LONGEST_PATH = 500  # characters; a longer text is not a path but an image in base64, which may contain slashes

Captions = tuple[dict[str, tuple[str, ...]], ...]
"""Captions to draw from: first one of the dicts, then a language, then one of its texts. No level is ever empty."""


@dataclass(frozen=True)
class ImageTextRecord:
    """An image with captions. Captions without a language are under ANY_LANGUAGE."""

    image: bytes
    """The encoded image, as in the file (JPEG ...)."""
    captions: Captions


@dataclass(frozen=True)
class Element:
    """A box in an image and what it shows."""

    box: tuple[float, float, float, float]
    """x, y of the upper left corner, width, height; in pixels of the original image."""
    captions: Captions
    attributes: Captions | None
    """Words that may be put before the caption, by language."""


@dataclass(frozen=True)
class RegionRecord:
    """An image, captions of the whole of it (or none), and its described boxes."""

    image: bytes
    captions: Captions | None
    elements: tuple[Element, ...]


@dataclass(frozen=True)
class ParallelTextRecord:
    """A sentence and its translation."""

    source: str
    target: str


def parse_image_text(
    data: bytes | memoryview, config: ImageTextSource, format: Format = Format.LINES
) -> ImageTextRecord:
    """An image with captions, each of them a dict (language -> texts) or a text. Raises BrokenRecord."""
    fields = _fields(data, config, format)
    captions = _captions(_field(fields, config.caption_key), config.caption_key)
    return ImageTextRecord(_image(fields, config), captions)


def parse_region(data: bytes | memoryview, config: ImageTextSource, format: Format = Format.LINES) -> RegionRecord:
    """An image with described boxes. The caption of the whole image is optional. Raises BrokenRecord."""
    fields = _fields(data, config, format)
    elements = _field(fields, "elems")
    if not isinstance(elements, list):
        raise BrokenRecord(WRONG_TYPE, f"elems is {_name(elements)}, not a list")
    whole = fields.get(config.caption_key)
    captions = None if whole is None else _captions(whole, config.caption_key)
    parsed = tuple(_element(element, f"elems[{i}]") for i, element in enumerate(elements))
    if not parsed and captions is None:
        raise BrokenRecord(NO_TEXT, f"elems is empty and there is no {config.caption_key}")
    return RegionRecord(_image(fields, config), captions, parsed)


def parse_parallel_text(
    data: bytes | memoryview, config: ParallelTextSource, format: Format = Format.LINES
) -> ParallelTextRecord:
    """A sentence and its translation. Raises BrokenRecord."""
    fields = _fields(data, config, format)
    texts = []
    for key in (config.source_key, config.target_key):
        text = _field(fields, key)
        if not isinstance(text, str):
            raise BrokenRecord(WRONG_TYPE, f"{key} is {_name(text)}, not a text")
        texts.append(text)
    source, target = texts
    return ParallelTextRecord(source, target)


def tar_fields(data: bytes | memoryview, image_key: str, caption_key: str) -> dict[str, Any]:
    """The fields of a record of a tar shard; an image is bytes under `image_key`. Raises BrokenRecord."""
    parts = tar_members(data)
    _refuse_dotted_names(parts)
    return fields_of_members(parts, image_key, caption_key)


def _refuse_dotted_names(parts: dict[str, bytes]) -> None:
    """Raise BrokenRecord if there is neither `.json` nor `.txt`, but a member whose name only ends so."""
    if "json" not in parts and "txt" not in parts:
        dotted = [extension for extension in parts if extension.endswith((".json", ".txt"))]
        if dotted:
            raise BrokenRecord(MISSING_KEY, f"there is no .json or .txt, but .{dotted[0]}; {_DOTS}")


def fields_of_members(parts: dict[str, bytes], image_key: str, caption_key: str) -> dict[str, Any]:
    """As `tar_fields`, from the result of `tar_members`."""
    fields = json_object(parts["json"]) if "json" in parts else {}
    images = image_extensions(parts)
    if len(images) > 1:
        shown = f".{' .'.join(images[:_SHOWN_MEMBERS])}{' ...' if len(images) > _SHOWN_MEMBERS else ''}"
        advice = f"; {_DOTS}" if any("." in extension for extension in images) else ""
        raise BrokenRecord(WRONG_TYPE, f"there are {len(images)} images: {shown}{advice}")
    if images:
        fields[image_key] = parts[images[0]]
    if "txt" in parts:
        fields.setdefault(caption_key, parts["txt"].decode("utf-8-sig", "replace"))
    return fields


def image_extensions(parts: Iterable[str]) -> list[str]:
    """Those extensions of a record's members that are images; a record should have one."""
    found: list[str] = []
    for known in (IMAGE_EXTENSIONS, _OTHER_IMAGE_EXTENSIONS):
        found = found or [extension for extension in parts if extension.rpartition(".")[2] in known]
    return found


def tar_members(data: bytes | memoryview) -> dict[str, bytes]:
    """Extension -> content, for the members of a record. Raises BrokenRecord."""
    try:
        return members_of_record(data)
    except DamagedTarError as error:
        raise BrokenRecord(BROKEN_TAR, str(error)) from None


def json_object(line: bytes | memoryview) -> dict[str, Any]:
    """The fields of a line. Raises BrokenRecord."""
    try:
        # Editors of Windows put the mark at the start of a file.
        fields = orjson.loads(line[3:] if line[:3] == BOM_UTF8 else line)
    except ValueError as error:
        raise BrokenRecord(NOT_JSON, str(error)) from None
    if not isinstance(fields, dict):
        raise BrokenRecord(WRONG_TYPE, f"the line is {_name(fields)}, not an object")
    return fields


def _fields(data: bytes | memoryview, config: ImageTextSource | ParallelTextSource, format: Format) -> dict[str, Any]:
    if format is Format.LINES:
        if isinstance(config, ImageTextSource) and not config.image_is_path:
            return _fields_with_image(bytes(data), config.image_key)
        return json_object(data)
    if isinstance(config, ImageTextSource):
        return tar_fields(data, config.image_key, config.caption_key)
    return tar_fields(data, "image", "caption")


def _fields_with_image(line: bytes, image_key: str) -> dict[str, Any]:
    """As `json_object`, but the image is already bytes if its base64 could be cut out before the rest is parsed.

    This saves time: the image is nearly all of the line, and a JSON parser would check and copy its text. The first
    long text between two neighbouring quotes is taken for the image. Base64 needs no escapes in JSON, so if there is
    nothing but base64 between the quotes, it is either a whole text, or the end of a text after an escaped quote. To
    tell which, a placeholder is parsed in its place: the image is right if the field then holds just the placeholder.
    """
    start = line.find(b'"')
    while start >= 0:
        end = line.find(b'"', start + 1)
        if end - start > _LONGEST_PATH:
            break
        start = end
    if start > 0:
        try:
            image = pybase64.b64decode(memoryview(line)[start + 1 : end], validate=True)
            fields = orjson.loads(line[: start + 1] + _TAKEN_OUT + line[end:])
        except ValueError:  # Where this is an error of the record, the parser below reports it.
            return json_object(line)
        if isinstance(fields, dict) and fields.get(image_key) == _TAKEN_OUT.decode():
            fields[image_key] = image
            return fields
    return json_object(line)


def _field(fields: dict[str, Any], key: str, place: str = "") -> Any:
    if key not in fields:
        raise BrokenRecord(MISSING_KEY, f"{place}{key} is not there")
    return fields[key]


def _image(fields: dict[str, Any], config: ImageTextSource) -> bytes:
    """The encoded image: base64 in the record, or the file it names."""
    value = _field(fields, config.image_key)
    if isinstance(value, bytes):  # from a member of a tar shard, or cut out of a line
        return value
    if not isinstance(value, str):
        raise BrokenRecord(WRONG_TYPE, f"{config.image_key} is {_name(value)}, not a text")
    if config.image_is_path:
        path = posixpath.join(config.image_root, value) if config.image_root else value
        try:
            return storage.read_bytes(path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            shown = path if len(path) <= _LONGEST_PATH else f"{path[:60]}... ({len(path):,} characters)"
            advice = advice_on_spelling(path, "")
            detail = f"{shown} does not exist; {advice}" if advice else f"{shown} does not exist"
            raise BrokenRecord(MISSING_IMAGE, detail) from None
        except (OSError, ValueError) as error:  # for example, the value is an image, or contains a zero byte
            if isinstance(error, ValueError) or error.errno == errno.ENAMETOOLONG:
                raise BrokenRecord(MISSING_IMAGE, f"{config.image_key} is no path: {path[:60]!r}") from None
            raise
    return from_base64(value, config.image_key)


def from_base64(text: str, key: str) -> bytes:
    """Decode the field `key`. White space (MIME line breaks) may be inside; any other wrong character is an error.

    Raises BrokenRecord.
    """
    try:
        data = pybase64.b64decode(text, validate=True)
    except ValueError:
        try:
            data = binascii.a2b_base64("".join(text.split()), strict_mode=True)
        except ValueError as error:
            raise BrokenRecord(BAD_BASE64, f"{key}: {error}") from None
    if not data:
        raise BrokenRecord(BAD_BASE64, f"{key} is empty")
    return data


def _element(element: Any, place: str) -> Element:
    if not isinstance(element, dict):
        raise BrokenRecord(WRONG_TYPE, f"{place} is {_name(element)}, not an object")
    box = _field(element, "bb", f"{place}.")
    if not (isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box)):
        raise BrokenRecord(WRONG_TYPE, f"{place}.bb is not [x, y, width, height]")
    x, y, width, height = map(float, box)
    captions = _captions(_field(element, "caption", f"{place}."), f"{place}.caption")
    attributes = element.get("attributes")  # Absent, null and empty all mean that there are none.
    words = _with_texts(attributes, f"{place}.attributes") if attributes else ()
    return Element((x, y, width, height), captions, words or None)


def _captions(value: Any, place: str) -> Captions:
    """One form for the forms of captions in files: a dict, a text, a list of texts, a list of dicts."""
    captions = _with_texts(value, place)
    if captions:
        return captions
    if value == []:
        raise BrokenRecord(EMPTY_CAPTION, f"{place} is an empty list")
    has_language = any(choice != {} for choice in (value if isinstance(value, list) else [value]))
    raise BrokenRecord(EMPTY_CAPTION, f"{place} has {'a language without text' if has_language else 'no language'}")


def _with_texts(value: Any, place: str) -> Captions:
    """As `_captions`, but empty where there is no text. Empty lists and objects inside are left out."""
    result = []
    for choice in value if isinstance(value, list) else [value]:
        by_language = choice if isinstance(choice, dict) else {ANY_LANGUAGE: choice}
        texts_by_language = {language: _texts(texts, place) for language, texts in by_language.items()}
        if any(texts_by_language.values()):
            result.append({language: texts for language, texts in texts_by_language.items() if texts})
    return tuple(result)


def _texts(value: Any, place: str) -> tuple[str, ...]:
    """The texts of one language. Null means the same as an empty text: whoever draws a caption passes it over."""
    texts = tuple(value) if isinstance(value, list) else (value,)
    for text in texts:
        if not isinstance(text, str):
            return _texts_with_null(texts, place)
    return texts


def _texts_with_null(texts: tuple[Any, ...], place: str) -> tuple[str, ...]:
    for text in texts:
        if text not in (None, [], {}) and not isinstance(text, str):
            raise BrokenRecord(WRONG_TYPE, f"{place} holds {_name(text)} where a text is expected")
    return tuple(text or "" for text in texts)


def _is_number(value: Any) -> bool:
    # The bounds refuse NaN and infinity, and integers too long for a float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e9 < value < 1e9


def _name(value: Any) -> str:
    """The type of a JSON value, with its article."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
