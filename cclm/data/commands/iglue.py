"""Reads a whole IGLUE folder with the readers of training, and counts examples by task, split and language."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from cclm import storage
from cclm.data.annotations.flickr import read_xflickrco
from cclm.data.annotations.gqa import read_answer_list, read_questions
from cclm.data.annotations.nlvr import PairImageRoots, read_pairs
from cclm.data.annotations.source import read_lines
from cclm.data.annotations.xvnli import read_xvnli
from cclm.errors import UserError

_ROOTS = {"coco": "", "flickr30k": ""}  # empty: images are not opened
_PAIRS = PairImageRoots(nlvr2="", marvl="", marvl_few_shot="")
_ANSWERS = "gqa/annotations/trainval_ans2label.json"
_ANSWER_LISTS = (_ANSWERS, "gqa/annotations/trainval_label2ans.json")
"""Files that hold no questions: the answer list, from answer to number and back."""
_DATA_FILES = (".json", ".jsonl")


@dataclass(frozen=True)
class FileCount:
    """What was found in one annotation file."""

    task: str
    split: str
    language: str
    examples: int
    problem: str | None = None
    """Why it cannot be read."""


def _count_wit(path: str) -> int:
    """Lines with a caption. Which of them have an image depends on the tables that a config names."""
    return sum(bool(record.fields.get("caption_reference_description")) for record in read_lines(path))


def _count_questions(path: str, answers: list[str]) -> int:
    training = storage.name(path).startswith("train")
    return len(read_questions([path], "", answers, refuse_unlisted=training))


_READERS: dict[str, Callable[[str, list[str]], int]] = {
    "XVNLI": lambda path, _: len(read_xvnli([path], "")),
    "xFlickrCO": lambda path, _: len(read_xflickrco([path], _ROOTS)),
    "flickr30k": lambda path, _: len(read_xflickrco([path], _ROOTS)),
    "wit": lambda path, _: _count_wit(path),
    "marvl": lambda path, _: len(read_pairs([path], _PAIRS)),
    "nlvr2": lambda path, _: len(read_pairs([path], _PAIRS)),
    "xGQA": lambda path, answers: _count_questions(path, answers),
    "gqa": lambda path, answers: _count_questions(path, answers),
}

_LANGUAGE = r"(?P<language>[a-z]{2}(?:-[A-Za-z]+)?)"
_PATTERNS = [
    re.compile(pattern)
    for pattern in (
        rf"(?P<task>XVNLI|xFlickrCO)/annotations(?P<translated>_machine-translate)?/{_LANGUAGE}/(?P<split>\w+?)(_gmt)?\.jsonl",
        r"(?P<task>flickr30k)/annotations/(?P<split>\w+)_ann\.jsonl",
        rf"(?P<task>wit)/annotations(?P<translated>_machine-translate)?/(?P<split>\w+?)_{_LANGUAGE}(_gmt)?\.jsonl",
        rf"(?P<task>marvl)/zero_shot/annotations(?P<translated>_machine-translate)?/marvl-{_LANGUAGE}(_gmt)?\.jsonl",
        rf"(?P<task>marvl)/few_shot/annotations/marvl-{_LANGUAGE}_(?P<split>\w+)\.jsonl",
        r"(?P<task>nlvr2)/annotations/(?P<split>\w+)\.jsonl",
        rf"(?P<task>xGQA)/annotations/few_shot/{_LANGUAGE}/(?P<split>\w+)\.json",
        rf"(?P<task>xGQA)/annotations(?P<translated>_machine-translate)?/(zero_shot/)?(?P<split>\w+?)_{_LANGUAGE}(_gmt)?\.json",
        r"(?P<task>gqa)/annotations/(?P<split>\w+)\.json",
    )
]


@dataclass(frozen=True)
class IglueCount:
    """What was found in an IGLUE folder."""

    files: list[FileCount]
    unknown: list[str]
    """Data files whose paths are not those of IGLUE; they are not read."""


def count_iglue(folder: str) -> IglueCount:
    """Count the examples of every annotation file below `folder`, which is IGLUE's folder or its `datasets`.

    Raises:
        UserError: it is not such a folder.
    """
    inner = storage.join(folder, "datasets")
    root = inner if storage.is_folder(inner) else folder
    names = sorted(_walk(root, ""))
    matched = [(name, _match(name)) for name in names if name not in _ANSWER_LISTS]
    if not any(match for _, match in matched):
        raise UserError(f"{folder} is not an IGLUE tree: it has no datasets/XVNLI, datasets/xGQA and so on")
    answers = read_answer_list(storage.join(root, _ANSWERS)) if _ANSWERS in names else []
    files = [_count(root, name, match, answers) for name, match in matched if match is not None]
    return IglueCount(files, unknown=[name for name, match in matched if match is None])


def _count(root: str, name: str, match: re.Match[str], answers: list[str]) -> FileCount:
    groups = match.groupdict()
    split = groups.get("split") or "test"
    if groups.get("translated"):
        split += ", translated to English"
    task, language = groups["task"], groups.get("language") or "en"
    try:
        return FileCount(task, split, language, _READERS[task](storage.join(root, name), answers))
    except UserError as error:
        return FileCount(task, split, language, 0, str(error))


def _match(name: str) -> re.Match[str] | None:
    return next((match for pattern in _PATTERNS if (match := pattern.fullmatch(name))), None)


def _walk(root: str, below: str) -> Iterator[str]:
    """Paths of data files in the folder `below` of `root`, relative to `root`. Hidden files are passed over."""
    for entry in storage.list_entries(storage.join(root, below) if below else root):
        name = f"{below}/{entry.name}" if below else entry.name
        if entry.is_folder:
            yield from _walk(root, name)
        elif name.endswith(_DATA_FILES) and not entry.name.startswith((".", "_")):
            yield name


class _TaskSplit(NamedTuple):
    task: str
    split: str


def iglue_table(files: Iterable[FileCount]) -> str:
    """The table for users: one line for each task and split, with the examples of each language."""
    rows: dict[_TaskSplit, list[FileCount]] = {}
    for file in files:
        rows.setdefault(_TaskSplit(file.task, file.split), []).append(file)
    cells = [("task", "split", "examples", "by language")]
    for row, languages in rows.items():
        by_language = ", ".join(
            f"{file.language} {'NOT readable' if file.problem else f'{file.examples:,}'}" for file in languages
        )
        cells.append((row.task, row.split, f"{sum(file.examples for file in languages):,}", by_language))
    widths = [max(len(row[i]) for row in cells) for i in range(3)]
    return "\n".join(
        f"{task:{widths[0]}}  {split:{widths[1]}}  {examples:>{widths[2]}}  {by_language}"
        for task, split, examples, by_language in cells
    )
