"""Images that are not there: found before training starts, named with the annotation that wants them, or left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Literal, TypeVar, cast

from cclm import storage
from cclm.data.annotations.types import (
    AnySet,
    ClassificationSet,
    ImageRef,
    PairSet,
    QuestionSet,
    RetrievalSet,
)
from cclm.errors import UserError

Policy = Literal["error", "skip"]
MISSING_IMAGE = "missing image"
_MANY = 32  # images of a folder from which on the folder is listed, and not asked for each of them

SetWithEntries = ClassificationSet | PairSet | QuestionSet
SetT = TypeVar("SetT", bound=AnySet)


def missing_images(annotations: SetT, policy: Policy) -> SetT:
    """The set, of which every image file exists.

    Args:
        policy: `error` refuses a set of which an image is missing; `skip` leaves annotations without their image out
            and counts them under MISSING_IMAGE in `dropped`.

    Raises:
        UserError: an image is missing and policy is `error`, or all of them are.
    """
    wanted = list(wanted_images(annotations))
    missing = missing_files(image.url for image, _ in wanted)
    if not missing:
        return annotations
    url, place = next((image.url, place) for image, place in wanted if image.url in missing)
    number = f"{len(missing)} of {len({image.url for image, _ in wanted})} images"
    if policy == "error":
        raise UserError(
            f"{place}: the image {url} does not exist ({number} are missing); fetch it, correct the image root, "
            "or leave such annotations out with --missing-images skip"
        )
    if isinstance(annotations, RetrievalSet):
        kept = cast(SetT, _without_images(annotations, missing))
    else:
        kept = cast(SetT, _without_entries(annotations, missing))
    if len(kept) == 0:
        raise UserError(f"{place}: the image {url} does not exist, nor does any other that the annotations want")
    return kept


def wanted_images(annotations: AnySet) -> Iterator[tuple[ImageRef, str]]:
    """Images and the annotations that want them."""
    if isinstance(annotations, RetrievalSet):
        yield from zip(annotations.images, annotations.image_places, strict=True)
    elif isinstance(annotations, PairSet):
        for pair in annotations.entries:
            yield pair.left, pair.place
            yield pair.right, pair.place
    else:
        for entry in annotations.entries:
            yield entry.image, entry.place


def _without_images(annotations: RetrievalSet, missing: set[str]) -> RetrievalSet:
    kept = [i for i, image in enumerate(annotations.images) if image.url not in missing]
    number_of = {old: new for new, old in enumerate(kept)}
    texts = [i for i, image in enumerate(annotations.image_of_text) if image in number_of]
    return replace(
        annotations,
        dropped=_counted(annotations.dropped, len(annotations.images) - len(kept)),
        images=[annotations.images[i] for i in kept],
        image_ids=[annotations.image_ids[i] for i in kept],
        image_places=[annotations.image_places[i] for i in kept],
        texts=[annotations.texts[i] for i in texts],
        image_of_text=[number_of[annotations.image_of_text[i]] for i in texts],
    )


def _without_entries(annotations: SetWithEntries, missing: set[str]) -> SetWithEntries:
    kept: list[Any]
    if isinstance(annotations, PairSet):
        kept = [e for e in annotations.entries if e.left.url not in missing and e.right.url not in missing]
    else:
        kept = [entry for entry in annotations.entries if entry.image.url not in missing]
    dropped = _counted(annotations.dropped, len(annotations.entries) - len(kept))
    return replace(annotations, entries=kept, dropped=dropped)


def _counted(dropped: Counter[str], number: int) -> Counter[str]:
    return dropped + Counter({MISSING_IMAGE: number})


def missing_files(urls: Iterable[str]) -> set[str]:
    """Those of the files that do not exist. A folder is listed once rather than asked for every file."""
    by_folder: dict[str, set[str]] = {}
    for url in urls:
        by_folder.setdefault(url.rpartition("/")[0], set()).add(url)
    missing: set[str] = set()
    for folder, files in by_folder.items():
        if folder and len(files) >= _MANY:
            try:
                there = {PurePosixPath(file).name for file in storage.list_files(folder)}
            except (FileNotFoundError, NotADirectoryError):
                there = set()
            files = {file for file in files if file.rpartition("/")[2] not in there}
        missing |= {file for file in files if not storage.is_file(file)}
    return missing
