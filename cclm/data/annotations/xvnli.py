"""XVNLI: does an image entail a sentence? Line-JSON in the format of IGLUE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cclm.data.annotations.annotation_sets import ClassificationEntry, ClassificationSet, ImageRef
from cclm.data.annotations.source import join, read_lines, shown
from cclm.errors import UserError

LABELS = ("contradiction", "entailment", "neutral")
"""A class's number is its index in this tuple."""
UNDECIDED = "-"
"""The label of a pair on which the annotators did not agree. Such pairs are dropped."""


def read_xvnli(paths: Sequence[str], image_root: str, num_labels: int = len(LABELS)) -> ClassificationSet:
    """The lines of all files, `{"Flikr30kID": ..., "gold_label": ..., "sentence2": ...}`, as one set.

    The premise is the image, so `sentence1` is not read. Images are not opened.

    Raises:
        UserError: with the file and the line.
    """
    known = LABELS[:num_labels]
    entries: list[ClassificationEntry] = []
    dropped: Counter[str] = Counter()
    for path in paths:
        for record in read_lines(path):
            label = record.text("gold_label")
            if label == UNDECIDED:
                dropped["no agreed label"] += 1
                continue
            if label not in known:
                raise UserError(f"{record.place}: gold_label is {shown(label)}, which is none of {', '.join(known)}")
            image = ImageRef(join(image_root, f"{record.name('Flikr30kID')}.jpg"))
            text = record.caption("sentence2")
            entries.append(ClassificationEntry(image, text, LABELS.index(label), record.place))
    if not entries:
        raise UserError(f"{', '.join(paths)}: no annotation is left, none has an agreed label")
    return ClassificationSet(files=tuple(paths), dropped=dropped, entries=entries)
