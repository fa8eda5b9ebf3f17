"""Builds a retrieval set, whatever the format of the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cclm.data.annotations.annotation_sets import ImageRef, RetrievalSet
from cclm.data.annotations.source import is_blank
from cclm.errors import UserError

EMPTY_CAPTION = "empty caption"
NO_CAPTION = "image without caption"


class RetrievalSetBuilder:
    """Takes images and captions in the order of the files. An image that comes again under the same id is kept once.

    `uncleaned_if_empty`: as in `RetrievalSet`.
    """

    def __init__(self, uncleaned_if_empty: bool = False) -> None:
        self._images: list[ImageRef] = []
        self._ids: list[int | str] = []
        self._places: list[str] = []
        self._texts: list[str] = []
        self._image_of_text: list[int] = []
        self._numbers: dict[tuple[int | str, ImageRef], int] = {}
        self._uncleaned_if_empty = uncleaned_if_empty
        self.dropped: Counter[str] = Counter()
        """What the reader leaves out, by reason."""

    def add_image(self, image: ImageRef, identity: int | str, place: str) -> int:
        """Take an image that the annotation at `place` names. Returns the image's number in the set."""
        key = (identity, image)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._images)
            self._images.append(image)
            self._ids.append(identity)
            self._places.append(place)
        return number

    def add_caption(self, image: int, text: str, place: str) -> None:
        """Take a caption of the image with this number.

        Raises:
            UserError: the caption would be empty after cleaning, unless such captions are used uncleaned.
        """
        if not self._uncleaned_if_empty and is_blank(text):
            raise UserError(f"{place}: the caption {text!r} is empty; write one or remove it")
        self._texts.append(text)
        self._image_of_text.append(image)

    def finish(self, paths: Sequence[str]) -> RetrievalSet:
        """The set of all that was added. Raises UserError if there is no caption."""
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
