"""Checks the annotations of one split: the annotation files, the presence of every image, a sample of the images."""

from __future__ import annotations

from collections.abc import Callable

from cclm.data.annotations.annotation_sets import AnySet, ImageRef
from cclm.data.annotations.missing import Policy, missing_files
from cclm.data.commands.check_report import SplitReport
from cclm.data.commands.sampling import Sampling, for_each
from cclm.data.examples.images import decode, open_image
from cclm.data.stored.records import BrokenRecord
from cclm.data.stored.spelling import advice_on_spelling


def check_annotations(read: Callable[[], AnySet], sampling: Sampling, policy: Policy, report: SplitReport) -> None:
    """Count annotations, look for every image file, decode some of the images, and fill in the report.

    Args:
        read: reads the split.
        policy: as `data.missing_images`. Under `skip`, an image that is missing, or broken inside a table, is not a
            problem.

    Raises:
        UserError: the annotation files cannot be used.
    """
    annotations = read()
    report.count, report.dropped = len(annotations), sum(annotations.dropped.values())
    places: dict[ImageRef, str] = {}
    for wanted in annotations.wanted_images():
        places.setdefault(wanted.image, wanted.place)
    missing = missing_files({image.url for image in places})
    present = [image for image in places if image.url not in missing]
    report.detail = "; ".join([f"{len(places):,} images", *annotations.remarks()])
    if missing:
        report.broken["missing image"] = len(places) - len(present)
        image = next(image for image in places if image.url in missing)
        report.detail += f", {report.broken['missing image']:,} missing"
        if policy == "error" or not present:
            advice = advice_on_spelling(image.url, "")
            report.problem = f"{places[image]}: the image {image.url} does not exist ({report.detail})"
            report.problem += f"; {advice}" if advice else ""
    unreadable: list[str] = []

    def decode_image(number: int) -> None:
        image = present[number]
        try:
            decode(open_image(image.read()))
        except BrokenRecord as error:
            report.broken[error.kind] += 1
            if image.is_embedded and policy == "skip":  # left out, as leave_out_unreadable does
                return
            unreadable.append(
                f"{places[image]}: the image {image.name} cannot be read ({error.detail}); fetch it again"
            )

    numbers = sampling.choose(len(present))
    report.examined = len(numbers)
    for_each(decode_image, numbers, sampling.advance)
    if unreadable and report.problem is None:
        report.problem = min(unreadable)
