"""A build that is killed takes everything it started along and leaves nothing that is taken for whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import builder, gobuild, traces
from tests.cluster.common import PROJECT, cache_folder, missing_prerequisite, remove_unfinished, wait_for, workplace

pytestmark = pytest.mark.cluster


@pytest.fixture(autouse=True)
def _can_build() -> None:
    sentence = missing_prerequisite()
    if sentence:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(sentence)


def _start(program: str, *words: str, **env: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program, *words], cwd=PROJECT, env={**os.environ, **env})


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
def test_the_compiler_ends_with_the_one_who_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setenv("CCLM_CLUSTER_CACHE", str(tmp_path))
    given = {"CCLM_CLUSTER_CACHE": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "own").write_text("")
    process = _start("from tests.cluster import gobuild; gobuild.build('pause')", **given)
    mark = f"CCLM_CLUSTER_CACHE={tmp_path}"
    try:
        compiling = lambda: any("/compile " in line for line in _with_setting(mark).values())  # noqa: E731
        wait_for(compiling, what="the compiler's start", timeout=60, every=0.02)
    finally:
        process.send_signal(number)
        process.wait()
    wait_for(lambda: not _with_setting(mark), what="the end of the compiler", timeout=5, every=0.05)
    assert not gobuild.binary("pause").exists()
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


_BUILD = "import sys; from pathlib import Path; from tests.cluster import builder; "
_BUILD += "builder.build(Path(sys.argv[1]), 'localhost/cclm/killed:1')"


def test_an_image_build_ends_with_the_one_who_asked(tmp_path: Path) -> None:
    builder.base_image()
    # A duration that nobody else sleeps.
    (tmp_path / "Dockerfile").write_text(f"ARG BASE\nFROM ${{BASE}}\nRUN sleep 98{os.getpid()}\n")
    before = traces.of_machine()
    process = _start(_BUILD, str(tmp_path))
    try:
        running = lambda: any(line.startswith("sleep ") for line in traces.mentioning(f"98{os.getpid()}"))  # noqa: E731
        wait_for(running, what="the build's own command", timeout=120, every=0.05)
    finally:
        process.kill()
        process.wait()
    ended = lambda: not running() and not traces.mentioning(str(tmp_path))  # noqa: E731
    wait_for(ended, what="the end of buildah and of what it ran", timeout=5, every=0.05)
    assert traces.of_machine() == before
    assert builder.reference_missing("localhost/cclm/killed:1")
    # The store is whole: the same build, with a command that ends, works.
    (tmp_path / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nRUN true\n")
    builder.build(tmp_path, "localhost/cclm/killed:1")
    builder.forget("localhost/cclm/killed:1")
    assert str(cache_folder()) not in "".join(traces.mentioning("buildah"))
