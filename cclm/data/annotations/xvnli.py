"""XVNLI: does an image entail a sentence? Line-JSON as IGLUE has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cclm.data.annotations.source import join, read_lines, shown
from cclm.data.annotations.types import ClassificationEntry, ClassificationSet, ImageRef
from cclm.errors import UserError

LABELS = ("contradiction", "entailment", "neutral")
"""Class number = place in this tuple."""
UNDECIDED = "-"
"""The label of a pair that its annotators did not agree on; such pairs are dropped."""


def read_xvnli(paths: Sequence[str], image_root: str, num_labels: int = len(LABELS)) -> ClassificationSet:
    """Lines of `{"Flikr30kID": ..., "gold_label": ..., "sentence2": ...}`, read as one; the premise is the image.

    Raises UserError that names the file and the line. Images are not opened.
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
