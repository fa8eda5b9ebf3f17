"""A build that is killed takes everything it started along and leaves nothing that is taken for whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import gobuild, traces
from tests.cluster.common import PROJECT, missing_prerequisite, remove_unfinished, wait_for, workplace

pytestmark = pytest.mark.cluster


@pytest.fixture(autouse=True)
def _can_build() -> None:
    sentence = missing_prerequisite()
    if sentence:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(sentence)


def _with_setting(setting: str) -> dict[int, str]:
    """Processes that were given this environment variable, and their command lines."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if setting.encode() in (process / "environ").read_bytes().split(b"\0"):
                found[int(process.name)] = traces.command_line(process)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_compiler_ends_with_the_one_who_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setenv("CCLM_CLUSTER_CACHE", str(tmp_path))
    given = {"CCLM_CLUSTER_CACHE": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "own").write_text("")
    words = [sys.executable, "-c", "from tests.cluster import gobuild; gobuild.build('pause')"]
    process = subprocess.Popen(words, cwd=PROJECT, env={**os.environ, **given})
    mark = f"CCLM_CLUSTER_CACHE={tmp_path}"
    try:
        compiling = lambda: any("/compile " in line for line in _with_setting(mark).values())  # noqa: E731
        wait_for(compiling, what="the compiler's start", timeout=60, every=0.02)
    finally:
        process.send_signal(number)
        process.wait()
    wait_for(lambda: not _with_setting(mark), what="the end of the compiler", timeout=60, every=0.05)
    assert not gobuild.binary("pause").exists()
    assert not list((tmp_path / "unfinished").glob("*/out")), "the compiler went on until its work was done"
    assert os.listdir(tmp_path / "tmp") == ["own"], "the compiler left its own in the machine's folder"
    assert os.listdir(tmp_path / "unfinished"), "nothing was half done: the test has killed nothing"
    remove_unfinished()
    assert os.listdir(tmp_path / "unfinished") == []


def test_what_is_still_being_made_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCLM_CLUSTER_CACHE", str(tmp_path))
    with workplace("thing") as work:
        (work / "half").write_text("x")
        remove_unfinished()
        assert (work / "half").exists()
    assert not work.exists()
    assert os.listdir(tmp_path / "locks") == []
