"""Records of every kind, and files of them, for the tests of the data side."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NOUNS = ("dog", "ball", "house", "tree", "river", "cat", "lamp", "boat")
COLOURS = ("red", "green", "blue", "yellow", "white", "black")
PLACES = ("on the grass", "near a window", "under the bridge", "beside an old fence")


def jpeg(number: int, width: int = 48, height: int = 40) -> bytes:
    """A picture that differs from number to number: smooth colours, with `number` in the brightness."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin((x * (c + 1) + y * (number % 7 + 1) + number * 13) / 9.0) for c in range(3)]
    values = (127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sentence(number: int) -> str:
    """A text that names `number`, so that records can be told apart in batches."""
    colour, noun = COLOURS[number % len(COLOURS)], NOUNS[number % len(NOUNS)]
    return f"a {colour} {noun} {PLACES[number % len(PLACES)]} r{number}"


def image_text(number: int) -> dict[str, Any]:
    return {"binary": b64(jpeg(number)), "caption": {"en": sentence(number), "de": f"ein {sentence(number)}"}}


def region(number: int) -> dict[str, Any]:
    """Even numbers have a caption of the whole image too."""
    boxes = [[2, 3, 10 + number % 20, 12], [20, 5, 15, 30], [0, 0, 48, 40]][: 1 + number % 3]
    elems = [{"bb": box, "caption": {"en": f"box {i} of r{number}"}} for i, box in enumerate(boxes)]
    whole = {"caption": {"en": sentence(number)}} if number % 2 == 0 else {}
    return {"binary": b64(jpeg(number)), "elems": elems, **whole}


def pair(number: int) -> dict[str, Any]:
    return {"source_text": sentence(number), "target_text": f"das {sentence(number)}"}


def write_lines(path: Path, records: list[Any]) -> Path:
    """Records (or raw lines, as str) to a line-JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path
