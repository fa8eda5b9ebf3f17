"""Leaves out, before the run, images inside tables that cannot be decoded, if the policy allows it.

Such images were fetched from the web by a program (WIT), and some fetches bring a web page or half a file instead. An
image that is a file of its own was prepared by someone, so it is an error in any case if it is broken.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cclm.data.annotations.annotation_sets import ImageRef
from cclm.data.annotations.missing import Policy, SetT
from cclm.data.examples.images import decode, open_image
from cclm.data.stored.records import BrokenRecord
from cclm.errors import UserError

UNREADABLE_IMAGE = "unreadable image"
"""The reason in `dropped` for annotations whose image cannot be decoded."""


Reasons = dict[ImageRef, str]
"""Why images cannot be decoded."""


def leave_out_unreadable(
    annotations: SetT,
    policy: Policy,
    *,
    rank: int = 0,
    world_size: int = 1,
    gather: Callable[[Reasons], list[Reasons]] = lambda mine: [mine],
) -> SetT:
    """The part of the set whose embedded images can all be decoded.

    The processes of a run share this work, and all of them call this.

    Args:
        policy: `skip` decodes every embedded image once, and leaves out the annotations whose image is broken; they are
            counted under UNREADABLE_IMAGE in `dropped`. `error` does nothing here: the image ends the run when it is
            read.
        rank: number of this process among `world_size`.
        gather: gives what each process has found, on every process, in order of rank.

    Raises:
        UserError: no annotation is left.
    """
    if policy == "error":
        return annotations
    embedded = list(dict.fromkeys(each.image for each in annotations.wanted_images() if each.image.is_embedded))
    mine = embedded[rank::world_size]
    with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)))) as pool:
        reasons = list(pool.map(_why_unreadable, mine))
    found = {image: reason for image, reason in zip(mine, reasons, strict=True) if reason is not None}
    unreadable = {image: reason for part in gather(found) for image, reason in part.items()}
    if not unreadable:
        return annotations
    kept = annotations.without_images(unreadable.keys(), UNREADABLE_IMAGE)
    if len(kept) == 0:
        image, reason = next(iter(unreadable.items()))
        raise UserError(f"{image.place}{image.describe_unreadable(reason)}, nor can any other of {len(embedded)}")
    return kept


def _why_unreadable(image: ImageRef) -> str | None:
    try:
        decode(open_image(image.read()))
    except BrokenRecord as error:
        return error.detail
    return None
