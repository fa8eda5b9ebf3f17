"""What every annotation file becomes, whatever its format: one kind of set for each of the four tasks.

Texts are as in the file, not cleaned. Entries stand in the order of the files. Images are named, not opened.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from cclm import storage
from cclm.data.stored.records import BrokenRecord
from cclm.errors import UserError


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where the bytes of an image lie: a file, or base64 text in a byte range of a file (WIT)."""

    url: str
    """Path or URL."""
    start: int | None = None
    """First byte of the base64 text; None if the whole file is the image."""
    end: int | None = None

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            UserError: the file is not there.
            BrokenRecord: the range does not hold base64.
        """
        try:
            if self.start is None or self.end is None:
                return storage.read_bytes(self.url)
            text = storage.read_range(self.url, self.start, self.end)
            return base64.b64decode(text.replace(b"\\/", b"/"), validate=True)  # JSON may write / as \\/
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise UserError(f"the image {self.url} does not exist; correct image_root or fetch the image") from None
        except binascii.Error as error:
            raise BrokenRecord("broken image", f"{self.url}, byte {self.start}: not base64 ({error})") from None


@dataclass(frozen=True, slots=True)
class FewShot:
    """What `--fewshot` asks for: a language and how many examples of it; unset where a task has only one number."""

    language: str
    shots: str | None = None
    """Text, since MaRVL has a `10x2`."""

    @staticmethod
    def parse(text: str) -> FewShot:
        """`ar,48` or `bn`. Raises UserError."""
        language, comma, shots = (part.strip() for part in text.partition(","))
        if not language or (comma and not shots) or "," in shots or "/" in text:
            raise UserError(f"--fewshot {text}: give a language and a number of shots, as ar,48, or a language alone")
        return FewShot(language, shots or None)


@dataclass(frozen=True, kw_only=True)
class AnnotationSet:
    """What the sets have in common."""

    files: tuple[str, ...]
    dropped: Counter[str] = field(default_factory=Counter)
    """Records left out by the data set's own rules, by reason."""


@dataclass(frozen=True, kw_only=True)
class RetrievalSet(AnnotationSet):
    """I images and the T texts that describe them."""

    images: list[ImageRef]
    """I"""
    image_ids: list[int | str]
    """I ids, as in the file; an image without one has its place in the list. Texts of images with equal ids are no
    negatives of each other in training."""
    image_places: list[str]
    """I times the file and line, or entry, that first names the image: for messages."""
    texts: list[str]
    """T captions."""
    image_of_text: list[int]
    """T places in `images`."""
    uncleaned_if_empty: bool = False
    """A caption of which cleaning leaves nothing is used as it is (WIT)."""

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, slots=True)
class ClassificationEntry:
    """XVNLI: does the image entail the sentence?"""

    image: ImageRef
    text: str
    label: int
    """0 contradiction, 1 entailment, 2 neutral."""
    place: str
    """file:line, for messages and predictions."""


@dataclass(frozen=True, slots=True)
class PairEntry:
    """NLVR2, MaRVL: is the sentence true of two images?"""

    left: ImageRef
    right: ImageRef
    text: str
    label: int
    """1 true, 0 false."""
    place: str


@dataclass(frozen=True, slots=True)
class QuestionEntry:
    """GQA, xGQA: a question about an image."""

    question_id: int
    image: ImageRef
    question: str
    answers: tuple[str, ...]
    """Distinct right answers, the first one counts in evaluation; each weighs 1 / number."""
    place: str


@dataclass(frozen=True, kw_only=True)
class ClassificationSet(AnnotationSet):
    entries: Sequence[ClassificationEntry]

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True, kw_only=True)
class PairSet(AnnotationSet):
    entries: Sequence[PairEntry]

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True, kw_only=True)
class QuestionSet(AnnotationSet):
    entries: Sequence[QuestionEntry]

    def __len__(self) -> int:
        return len(self.entries)


AnySet = RetrievalSet | ClassificationSet | PairSet | QuestionSet
