"""Missing image files: found before training starts, and either refused or left out with their annotations."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Literal, TypeVar

from cclm import storage
from cclm.data.annotations.annotation_sets import MISSING_IMAGE, AnnotationSet
from cclm.data.stored.spelling import advice_on_spelling
from cclm.errors import UserError

Policy = Literal["error", "skip"]
_LIST_FOLDER_FROM = 32  # from this many images of a folder on, the folder is listed instead of asked for each image

SetT = TypeVar("SetT", bound=AnnotationSet)


def missing_images(annotations: SetT, policy: Policy) -> SetT:
    """The part of the set whose image files all exist.

    Args:
        policy: `error` refuses a set if one of its images is missing. `skip` leaves out the annotations whose image is
            missing, and counts them under MISSING_IMAGE in `dropped`.

    Raises:
        UserError: an image is missing and the policy is `error`, or all images are missing.
    """
    wanted = list(annotations.wanted_images())
    missing = missing_files(each.image.url for each in wanted)
    if not missing:
        return annotations
    first = next(each for each in wanted if each.image.url in missing)
    url, place = first.image.url, first.place
    number = f"{len(missing)} of {len({each.image.url for each in wanted})} images"
    if policy == "error":
        advice = "fetch it, correct the image root, or leave such annotations out with --missing-images skip"
        raise UserError(
            f"{place}: the image {url} does not exist ({number} are missing); {advice_on_spelling(url, advice)}"
        )
    kept = annotations.without_images({each.image for each in wanted if each.image.url in missing}, MISSING_IMAGE)
    if len(kept) == 0:
        raise UserError(f"{place}: the image {url} does not exist, nor does any other that the annotations want")
    return kept


def missing_files(urls: Iterable[str]) -> set[str]:
    """The files that do not exist. A folder with many of them is listed once, which is faster than many questions."""
    by_folder: dict[str, set[str]] = {}
    for url in urls:
        by_folder.setdefault(url.rpartition("/")[0], set()).add(url)
    missing: set[str] = set()
    for folder, files in by_folder.items():
        if folder and len(files) >= _LIST_FOLDER_FROM:
            try:
                present = {PurePosixPath(file).name for file in storage.list_files(folder)}
            except (FileNotFoundError, NotADirectoryError):
                present = set()
            files = {file for file in files if file.rpartition("/")[2] not in present}
        missing |= {file for file in files if not storage.is_file(file)}
    return missing
