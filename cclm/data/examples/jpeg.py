"""Finds JPEG files that end in the middle of the image, although they have an end marker.

Where the marker comes early, libjpeg fills the rest of the image with grey and reports no error. Only decoding can show
this, so the file is decoded once more with meaningless data before the marker. A whole image does not change: libjpeg
ignores data after the last block. In one that was cut, those data decode to something other than grey.

A progressive file sends the image several times, each time finer. One that was cut lacks the last of these scans.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # ends a scan: neither an escaped byte nor a restart marker
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN, _PROGRESSIVE_FRAME = 0xD8, 0xD9, 0xDA, 0xC2
_FILL = {127, 128}  # values of the missing part: no coefficient is set, in any colour space


def _meaningless_data() -> bytes:
    """Random bytes behind each restart marker, so that a cut at such a marker changes the image, too."""
    rng = random.Random(0)
    parts = [bytes(rng.randrange(255) for _ in range(100)) for _ in range(9)]  # 255 would begin a marker
    return parts[0] + b"".join(bytes([0xFF, 0xD0 + i]) + part for i, part in enumerate(parts[1:]))


_MEANINGLESS = _meaningless_data()


def may_be_cut(image: Image.Image) -> bool:
    """Whether a decoded JPEG is progressive, or ends in the colour of a missing part. Some whole images do, too.

    This takes microseconds, and spares nearly all images the slow check of `is_cut`.
    """
    last = image.getpixel((image.width - 1, image.height - 1))
    return "progressive" in image.info or set(last if isinstance(last, tuple) else (last,)) <= _FILL


def is_cut(data: bytes) -> bool:
    """Whether the end marker of a JPEG file, which decodes without an error, comes before the end of the image.

    A progressive file that is cut in its last scan is not noticed: it lacks the last bit of some coefficients.
    """
    segments = list(_segments(data))
    if not segments or segments[-1].kind != _END_OF_IMAGE:
        return False  # Pillow accepts an end that this parser does not find
    if any(segment.kind == _PROGRESSIVE_FRAME for segment in segments):
        return _lacks_scans(data, segments)
    end = segments[-1].start
    return _small(data) != _small(data[:end] + _MEANINGLESS + data[end:])


class _Segment(NamedTuple):
    kind: int
    """Second byte of the marker."""
    start: int
    """Index of the marker. Contents begin behind its two bytes and the two of their length."""


def _segments(data: bytes) -> Iterator[_Segment]:
    """The segments up to the end marker. What follows it (a trailer, a second picture) is not looked at."""
    at = 0
    while match := _MARKER.search(data, at):
        kind, at = data[match.start() + 1], match.end()
        yield _Segment(kind, match.start())
        if kind == _END_OF_IMAGE:
            return
        if kind != _START_OF_IMAGE:
            at += int.from_bytes(data[at : at + 2], "big")  # the data of a scan follow its segment, and hold no marker


def _lacks_scans(data: bytes, segments: list[_Segment]) -> bool:
    """Whether coefficients of a progressive file were not sent to their last bit."""
    missing: set[tuple[int, int]] = set()  # (component, coefficient)
    for kind, start in segments:
        contents = data[start + 4 : start + 1000]  # at most 4 components are read
        if kind == _PROGRESSIVE_FRAME:
            components = [contents[6 + 3 * i] for i in range(contents[5])]
            missing = {(component, coefficient) for component in components for coefficient in range(64)}
        elif kind == _START_OF_SCAN:
            count = contents[0]
            first, last, bits = contents[1 + 2 * count : 4 + 2 * count]
            if bits & 15 == 0:  # how many bits are left to later scans
                scanned = [contents[1 + 2 * i] for i in range(count)]
                missing -= {(component, index) for component in scanned for index in range(first, last + 1)}
    return bool(missing)


def _small(data: bytes) -> bytes:
    """The image decoded at an eighth of its size."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft(image.mode, (1, 1))
        return image.tobytes()
