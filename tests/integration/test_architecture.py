"""docs/architecture.md names every file that is entered, in order: a tiny run is traced and compared with the page."""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.pages import ROOT, shell

PAGE = ROOT / "docs/architecture.md"
RUN = (
    "cclm launch -- pretrain configs/demo/fusion.yaml model.weights=null training.max_steps=1 training.log_every=1 "
    "evaluation=null data.regions.probability=0.5 data.images_mono.probability=1 data.texts.probability=1 "
    "data.augment.rand_augment_ops=2"
)
"""One outer step with a batch of each of the four kinds, and the save at its end."""


@dataclass(frozen=True)
class Entered:
    """A file in which a process called a function for the first time in a window of the trace."""

    window: str
    thread: str
    file: str
    function: str


def process_name(words: list[str]) -> str:
    """Which of the run's processes has this command line."""
    if "cclm.checkpoints.writer" in words:
        return "writer"
    return "launcher" if "launch" in words else "training"


@pytest.fixture(scope="module")
def entered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Entered]]:
    """Process -> what it entered, in order."""
    folder = tmp_path_factory.mktemp("trace")
    shutil.copytree(ROOT / "configs", folder / "configs")
    assert shell("cclm demo demo_world --tiny", folder).returncode == 0
    (folder / "traces").mkdir()
    path = os.pathsep.join([str(Path(__file__).parent / "tracing"), str(ROOT)])
    traced = {"CCLM_TRACE": str(folder / "traces"), "CCLM_TRACE_ROOT": f"{ROOT}/cclm/", "PYTHONPATH": path}
    done = shell(RUN, folder, OMP_NUM_THREADS="1", **traced)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for trace in (folder / "traces").iterdir():
        words, *lines = (json.loads(line) for line in trace.read_text().splitlines())
        if lines:
            found[process_name(words)] = [Entered(*line) for line in lines]
    return found


def named(title: str) -> dict[str, str]:
    """Files of the numbered list below a heading of the page, in order -> what the page says about each."""
    section = re.split(r"^#+ ", PAGE.read_text(), flags=re.MULTILINE)
    [text] = [part for part in section if part.startswith(f"{title}\n")]
    return dict(re.findall(r"^\d+\. \[.*?\]\(\.\./cclm/(.*?)\) - (.*)$", text, flags=re.MULTILINE))


def corrected(page: dict[str, str], files: list[Entered]) -> str:
    """The list as it should be, to be pasted into the page."""
    lines = [
        f"{number}. [`{each.file}`](../cclm/{each.file}) - {page.get(each.file, f'TODO ({each.function})')}"
        for number, each in enumerate(files, 1)
    ]
    return "\n".join(["the list should be:", *lines])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "process", "window"),
    [
        ("One launch", "launcher", ""),
        ("One config", "training", ""),
        ("One batch", "training", "batch"),
        ("In the training process", "training", "checkpoint"),
        ("In the writer's process", "writer", ""),
    ],
)
def test_the_page_names_what_is_entered(
    entered: dict[str, list[Entered]], title: str, process: str, window: str
) -> None:
    """Files that another thread enters first may stand anywhere: threads are not ordered."""
    files = [each for each in entered[process] if each.window == window]
    page = named(title)
    assert set(page) == {each.file for each in files}, corrected(page, files)
    in_order = [each.file for each in files if each.thread == "MainThread"]
    assert [file for file in page if file in in_order] == in_order, corrected(page, files)
