"""What all writers of a demo world's files share: encoding, counting, and the derivation of random numbers."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from cclm.demo.draw import draw, jpeg, png
from cclm.demo.scenes import Scene


class WorldWriter:
    """Writes files below `root`, counts their entries by kind, and derives all random numbers from `seed`."""

    def __init__(self, root: Path, seed: int, side: int, advance: Callable[[int], object]) -> None:
        """
        Args:
            side: of every picture, px.
            advance: called with the number of pictures that were just drawn.
        """
        self.root = root
        self.seed = seed
        self.side = side
        self.counts: Counter[str] = Counter()
        self._advance = advance

    def rng(self, *names: object) -> Random:
        """A generator for one item: the same names give the same numbers, whatever was drawn before."""
        return Random("/".join(map(str, (self.seed, *names))))

    def base64_jpeg(self, scene: Scene) -> str:
        """The scene's picture as JPEG in base64, as line-JSON files hold it."""
        self._advance(1)
        return base64.b64encode(jpeg(draw(scene, self.side).image)).decode("ascii")

    def picture(self, path: str, scene: Scene) -> None:
        """Write the scene's picture to `path`: PNG if it ends in .png, otherwise JPEG."""
        encode = png if path.endswith(".png") else jpeg
        self._write(path, encode(draw(scene, self.side).image))
        self.counts["pictures"] += 1
        self._advance(1)

    def json(self, path: str, value: Any, kind: str, number: int | None = None) -> None:
        """Write one JSON document. It counts under `kind` as `number` entries; as its length if None."""
        self._write(path, json.dumps(value, ensure_ascii=False).encode())
        self.counts[kind] += len(value) if number is None else number

    def json_lines(self, path: str, records: Iterable[dict[str, Any]], kind: str) -> None:
        """Write one JSON object a line."""
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        self._write(path, "".join(lines).encode())
        self.counts[kind] += len(lines)

    def parts(self, folder: str, records: Sequence[dict[str, Any]], number: int, kind: str) -> None:
        """Write `number` part files and an empty `_SUCCESS`, as Spark leaves them."""
        for part, chunk in enumerate(cut(records, number)):
            self.json_lines(f"{folder}/part-{part:05d}.jsonl", chunk, kind)
        self._write(f"{folder}/_SUCCESS", b"")

    def tab_separated(self, path: str, rows: Iterable[Sequence[str]]) -> None:
        """Write rows of texts, which must have no tabs or line ends."""
        self._write(path, "".join("\t".join(row) + "\n" for row in rows).encode())

    def text(self, path: str, text: str) -> None:
        """Write a text file."""
        self._write(path, text.encode())

    def _write(self, path: str, content: bytes) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def cut(items: Sequence[Any], number: int) -> Iterator[Sequence[Any]]:
    """The items in at most `number` runs of nearly equal length. A run is empty only if there are no items."""
    number = max(1, min(number, len(items)))
    for part in range(number):
        yield items[part * len(items) // number : (part + 1) * len(items) // number]
