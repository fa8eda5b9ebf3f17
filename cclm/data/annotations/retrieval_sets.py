"""Putting a retrieval set together, whatever file it is read from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cclm.data.annotations.source import is_blank
from cclm.data.annotations.types import ImageRef, RetrievalSet
from cclm.errors import UserError

EMPTY_CAPTION = "empty caption"
NO_CAPTION = "image without caption"


class RetrievalSetBuilder:
    """Takes images and captions in the order of the files; the same image under the same id is taken once."""

    def __init__(self, uncleaned_if_empty: bool = False) -> None:
        self._images: list[ImageRef] = []
        self._ids: list[int | str] = []
        self._places: list[str] = []
        self._texts: list[str] = []
        self._image_of_text: list[int] = []
        self._slots: dict[tuple[int | str, str, int | None], int] = {}
        self._uncleaned_if_empty = uncleaned_if_empty
        self.dropped: Counter[str] = Counter()

    def image(self, image: ImageRef, identity: int | str, place: str) -> int:
        """The image's number."""
        key = (identity, image.url, image.start)
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = len(self._images)
            self._images.append(image)
            self._ids.append(identity)
            self._places.append(place)
        return slot

    def caption(self, slot: int, text: str, place: str) -> None:
        """A caption of image `slot`. Raises UserError if cleaning leaves nothing of it, unless it is used as it is."""
        if not self._uncleaned_if_empty and is_blank(text):
            raise UserError(f"{place}: the caption {text!r} is empty; write one or remove it")
        self._texts.append(text)
        self._image_of_text.append(slot)

    def finish(self, paths: Sequence[str]) -> RetrievalSet:
        """The set. Raises UserError if everything was dropped."""
        if not self._texts:
            reasons = ", ".join(f"{number} x {reason}" for reason, number in self.dropped.items())
            raise UserError(f"{', '.join(paths)}: no annotation is left ({reasons})")
        return RetrievalSet(
            files=tuple(paths),
            dropped=self.dropped,
            images=self._images,
            image_ids=self._ids,
            image_places=self._places,
            texts=self._texts,
            image_of_text=self._image_of_text,
            uncleaned_if_empty=self._uncleaned_if_empty,
        )
