"""The common form of annotations: one kind of set for each of the four tasks, whatever the format of the files.

Texts are as in the file, not cleaned. Entries keep the order of the files. Images are named, not opened.
"""

from __future__ import annotations

import base64
import binascii
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

from cclm import storage
from cclm.data.cleaning import first_words, is_single_word
from cclm.data.stored.records import BrokenRecord
from cclm.data.stored.spelling import advice_on_spelling
from cclm.errors import UserError

_SHOWN_ANSWERS = 3

MISSING_IMAGE = "missing image"
"""The reason in `dropped` for annotations whose image does not exist."""


class ImageOrigin(NamedTuple):
    """Where an image inside a table comes from, for messages."""

    url: str
    """Its address on the web."""
    place: str
    """File and line of the annotation that first names it."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where the bytes of an image are: a whole file, or base64 text in a byte range of a file (WIT)."""

    url: str
    """Path or URL."""
    start: int | None = None
    """First byte of the base64 text; None if the whole file is the image."""
    end: int | None = None
    """The byte after the base64 text."""
    origin: ImageOrigin | None = field(default=None, compare=False)
    """Where an image that has no file of its own comes from."""

    @property
    def is_embedded(self) -> bool:
        """Whether the image is a part of a file."""
        return self.start is not None

    @property
    def name(self) -> str:
        """What messages call the image: its address on the web or, for a file of its own, the path."""
        return self.url if self.origin is None else self.origin.url

    @property
    def place(self) -> str:
        """`file:line: ` of the annotation for the beginning of a message; empty for a file of its own."""
        return "" if self.origin is None else f"{self.origin.place}: "

    def describe_unreadable(self, reason: str) -> str:
        """The sentence on an image that cannot be decoded."""
        text = f"the image {self.name} cannot be read: {reason}"
        return f"{text}; leave such images out with --missing-images skip" if self.is_embedded else text

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            UserError: the file does not exist.
            BrokenRecord: the byte range is not base64.
        """
        try:
            if self.start is None or self.end is None:
                return storage.read_bytes(self.url)
            text = storage.read_range(self.url, self.start, self.end)
            return base64.b64decode(text.replace(b"\\/", b"/"), validate=True)  # JSON may escape / as \\/
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            advice = advice_on_spelling(self.url, "correct image_root or fetch the image")
            raise UserError(f"the image {self.url} does not exist; {advice}") from None
        except binascii.Error as error:
            raise BrokenRecord("broken image", f"{self.url}, byte {self.start}: not base64 ({error})") from None


@dataclass(frozen=True, slots=True)
class FewShot:
    """The value of `--fewshot`: a language, and how many examples of it to train on."""

    language: str
    shots: str | None = None
    """None for tasks that have few-shot files of one size only. Text, since MaRVL has a size `10x2`."""

    @staticmethod
    def parse(text: str) -> FewShot:
        """From `ar,48` or `bn`. Raises UserError for anything else."""
        language, comma, shots = (part.strip() for part in text.partition(","))
        if not language or (comma and not shots) or "," in shots or "/" in text:
            raise UserError(f"--fewshot {text}: give a language and a number of shots, as ar,48, or a language alone")
        return FewShot(language, shots or None)


class WantedImage(NamedTuple):
    """An image, and an annotation that names it."""

    image: ImageRef
    place: str
    """File and line, or entry, of the annotation."""


@dataclass(frozen=True, kw_only=True)
class AnnotationSet(ABC):
    """What the sets have in common."""

    files: tuple[str, ...]
    dropped: Counter[str] = field(default_factory=Counter)
    """Number of annotations that were left out, by reason."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of annotations."""

    def remarks(self) -> list[str]:
        """What users should know of the set, besides what was left out: sentences without a full stop."""
        return []

    @abstractmethod
    def wanted_images(self) -> Iterator[WantedImage]:
        """The images that the annotations name; an image may come more than once."""

    @abstractmethod
    def without_images(self, images: Set[ImageRef], reason: str) -> Self:
        """The annotations without those of `images`, which are counted under `reason` in `dropped`."""

    def _dropped_with(self, number: int, reason: str) -> Counter[str]:
        return self.dropped + Counter({reason: number})


@dataclass(frozen=True, kw_only=True)
class RetrievalSet(AnnotationSet):
    """I images and the T texts that describe them."""

    images: list[ImageRef]
    """I images."""
    image_ids: list[int | str]
    """I ids, as in the file; the id of an image without one is its path. In training, texts of images with equal ids
    are not negatives of each other."""
    image_places: list[str]
    """I places, for messages: the file and line, or entry, that first names the image."""
    texts: list[str]
    """T captions."""
    image_of_text: list[int]
    """T indexes into `images`."""
    uncleaned_if_empty: bool = False
    """Whether a caption that would be empty after cleaning is used uncleaned (WIT)."""

    def __len__(self) -> int:
        return len(self.texts)

    def remarks(self) -> list[str]:
        words: dict[int, list[str]] = {}  # of images without any longer caption
        with_sentence = set()
        for text, image in zip(self.texts, self.image_of_text, strict=True):
            if is_single_word(text):
                words.setdefault(image, []).append(text)
            else:
                with_sentence.add(image)
        lists = [image for image, texts in words.items() if len(texts) > 1 and image not in with_sentence]
        if not lists:
            return []
        return [
            f"{len(lists):,} images with captions of single words, each taken for a caption of its own "
            f"({self.image_places[lists[0]]}: {first_words(words[lists[0]])}); "
            "join them if they are the words of one caption"
        ]

    def wanted_images(self) -> Iterator[WantedImage]:
        return map(WantedImage, self.images, self.image_places)

    def without_images(self, images: Set[ImageRef], reason: str) -> Self:
        kept = [i for i, image in enumerate(self.images) if image not in images]
        number_of = {old: new for new, old in enumerate(kept)}
        texts = [i for i, image in enumerate(self.image_of_text) if image in number_of]
        return replace(
            self,
            dropped=self._dropped_with(len(self.images) - len(kept), reason),
            images=[self.images[i] for i in kept],
            image_ids=[self.image_ids[i] for i in kept],
            image_places=[self.image_places[i] for i in kept],
            texts=[self.texts[i] for i in texts],
            image_of_text=[number_of[self.image_of_text[i]] for i in texts],
        )


@dataclass(frozen=True, slots=True)
class ClassificationEntry:
    """XVNLI: does the image entail the sentence?"""

    image: ImageRef
    text: str
    label: int
    """0 contradiction, 1 entailment, 2 neutral."""
    place: str
    """`file:line`, for messages and predictions."""


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
    """A distinct right answers. Each has the weight 1 / A in training; only the first one counts in evaluation."""
    place: str


@dataclass(frozen=True, kw_only=True)
class ClassificationSet(AnnotationSet):
    """XVNLI."""

    entries: Sequence[ClassificationEntry]

    def __len__(self) -> int:
        return len(self.entries)

    def wanted_images(self) -> Iterator[WantedImage]:
        return (WantedImage(entry.image, entry.place) for entry in self.entries)

    def without_images(self, images: Set[ImageRef], reason: str) -> Self:
        kept = [entry for entry in self.entries if entry.image not in images]
        return replace(self, entries=kept, dropped=self._dropped_with(len(self.entries) - len(kept), reason))


@dataclass(frozen=True, kw_only=True)
class PairSet(AnnotationSet):
    """NLVR2, MaRVL."""

    entries: Sequence[PairEntry]

    def __len__(self) -> int:
        return len(self.entries)

    def wanted_images(self) -> Iterator[WantedImage]:
        for entry in self.entries:
            yield WantedImage(entry.left, entry.place)
            yield WantedImage(entry.right, entry.place)

    def without_images(self, images: Set[ImageRef], reason: str) -> Self:
        kept = [each for each in self.entries if each.left not in images and each.right not in images]
        return replace(self, entries=kept, dropped=self._dropped_with(len(self.entries) - len(kept), reason))


@dataclass(frozen=True, kw_only=True)
class QuestionSet(AnnotationSet):
    """GQA, xGQA."""

    entries: Sequence[QuestionEntry]
    answer_list: frozenset[str] = frozenset()
    """The answers that a model chooses from in evaluation; empty if not known."""

    def unlisted(self) -> list[QuestionEntry]:
        """The entries whose right answer is not in the answer list, so that evaluation counts them as wrong."""
        return [each for each in self.entries if self.answer_list and each.answers[0] not in self.answer_list]

    def remarks(self) -> list[str]:
        unlisted = self.unlisted()
        if not unlisted:
            return []
        answers = list(dict.fromkeys(entry.answers[0] for entry in unlisted))
        shown = ", ".join(map(repr, answers[:_SHOWN_ANSWERS])) + (" ..." if len(answers) > _SHOWN_ANSWERS else "")
        return [f"{len(unlisted):,} of {len(self):,} count as wrong, their answer is not in data.answer_list ({shown})"]

    def __len__(self) -> int:
        return len(self.entries)

    def wanted_images(self) -> Iterator[WantedImage]:
        return (WantedImage(entry.image, entry.place) for entry in self.entries)

    def without_images(self, images: Set[ImageRef], reason: str) -> Self:
        kept = [entry for entry in self.entries if entry.image not in images]
        return replace(self, entries=kept, dropped=self._dropped_with(len(self.entries) - len(kept), reason))


AnySet = RetrievalSet | ClassificationSet | PairSet | QuestionSet
