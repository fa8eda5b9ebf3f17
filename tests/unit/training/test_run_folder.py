"""One run works in a folder at a time."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cclm.errors import UserError
from cclm.training import run_folder
from cclm.training.run_folder import (
    RUN_LOCK,
    FolderInUseError,
    is_worked_in_by_others,
    no_trace_if_refused,
    working_alone,
)

HOLD = (
    "import sys, signal; from cclm.training.run_folder import working_alone\n"
    "with working_alone(sys.argv[1]):\n"
    "    print('locked', flush=True); signal.pause()"
)

Holder = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def hold() -> Iterator[Holder]:
    """Starts a process that works in a folder."""
    started: list[subprocess.Popen[str]] = []

    def begin(folder: Path, **variables: str) -> subprocess.Popen[str]:
        environment = {**os.environ, **variables}
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_run_says_who_works_there(tmp_path: Path, hold: Holder) -> None:
    folder = tmp_path / "new" / "run"
    process = hold(folder)
    with pytest.raises(FolderInUseError, match=rf"already works in .*: process {process.pid} on ") as refused:
        with no_trace_if_refused(str(folder)), working_alone(str(tmp_path / "far"), str(folder)):
            pytest.fail("two runs in one folder")
    assert "cclm launch --nproc-per-node" in str(refused.value)
    assert folder.exists()


def test_a_run_that_was_killed_is_not_in_the_way(tmp_path: Path, hold: Holder) -> None:
    process = hold(tmp_path)
    process.kill()
    process.wait()
    with working_alone(str(tmp_path)):
        read = f"import pathlib; print(pathlib.Path({str(tmp_path / RUN_LOCK)!r}).read_text())"
        found = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True).stdout
        assert json.loads(found)["pid"] == os.getpid()


def test_other_processes_of_a_run_and_stores_need_no_lock(tmp_path: Path, hold: Holder) -> None:
    hold(tmp_path)
    with working_alone(str(tmp_path), environment={"RANK": "1"}), working_alone("memory://a/run", None):
        pass


def test_a_launcher_knows_whether_its_own_process_works_in_a_folder(tmp_path: Path, hold: Holder) -> None:
    store, far = "memory://a/run", str(tmp_path / "far")
    assert not is_worked_in_by_others(store, far, str(tmp_path), launcher=7)
    process = hold(tmp_path, CCLM_LAUNCHER_PID="7")
    assert not is_worked_in_by_others(store, far, str(tmp_path), launcher=7)
    assert is_worked_in_by_others(store, far, str(tmp_path), launcher=8)
    process.kill()
    process.wait()
    assert not is_worked_in_by_others(str(tmp_path), launcher=8)


def test_an_earlier_process_of_the_same_job_is_waited_for(
    tmp_path: Path, hold: Holder, capsys: pytest.CaptureFixture[str]
) -> None:
    process = hold(tmp_path, CCLM_JOB_ID="j1")

    def end_when_waited_for() -> None:
        while "in use by" not in capsys.readouterr().err:
            time.sleep(0.05)
        process.kill()

    thread = threading.Thread(target=end_when_waited_for)
    thread.start()
    with working_alone(str(tmp_path), environment={"CCLM_JOB_ID": "j1"}):
        assert process.wait() == -signal.SIGKILL
    thread.join()
    with pytest.raises(FolderInUseError):
        hold(tmp_path, CCLM_JOB_ID="j1")
        with working_alone(str(tmp_path), environment={"CCLM_JOB_ID": "j2"}):
            pass


def test_another_launcher_of_the_same_name_on_this_machine_is_another_run(
    tmp_path: Path, hold: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two launches in one allocation of SLURM share its name. Those of several nodes are one run."""
    launcher = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    hold(tmp_path, CCLM_JOB_ID="7", CCLM_LAUNCHER_PID=str(launcher.pid))
    second = {"CCLM_JOB_ID": "7", "CCLM_LAUNCHER_PID": str(os.getpid()), "LOCAL_WORLD_SIZE": "2"}
    alone = second | {"CCLM_FULL_WORLD_SIZE": "2"}
    monkeypatch.setattr(run_folder, "_PATIENCE_FAR", 0.0)
    with pytest.raises(FolderInUseError, match="a run already works in"):
        with working_alone(str(tmp_path), environment=alone):
            pass
    with working_alone(str(tmp_path), environment=second | {"CCLM_FULL_WORLD_SIZE": "4"}):
        pass
    with working_alone(str(tmp_path), environment=alone | {"CCLM_LAUNCHER_PID": str(launcher.pid)}):
        pass  # a process of the same launcher, which took the first one for dead
    launcher.communicate()
    with working_alone(str(tmp_path), environment=alone):
        pass  # what a launcher that has ended left behind


def test_a_process_of_another_machine_counts_where_it_gives_signs_of_life(
    tmp_path: Path, hold: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(tmp_path)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    monkeypatch.setattr(run_folder, "_PATIENCE_FAR", 0.0)
    with working_alone(str(tmp_path)):  # its machine may be gone
        pass
    monkeypatch.setattr(run_folder, "_PATIENCE_FAR", 600.0)
    signs = iter(range(100))
    monkeypatch.setattr(run_folder, "_sign_of_life", lambda folder: next(signs))
    with pytest.raises(FolderInUseError), working_alone(str(tmp_path)):
        pass


def test_the_sign_of_life_of_a_run_that_has_ended_is_none(tmp_path: Path) -> None:
    assert run_folder._sign_of_life(tmp_path) is None
    for phase, expected in (("training", 5.0), ("ended", None), ("stopped", None), ("failed", None)):
        (tmp_path / "status.json").write_text(json.dumps({"phase": phase, "time": 5.0}))
        assert run_folder._sign_of_life(tmp_path) == expected


def test_a_run_that_is_refused_leaves_no_lock(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(UserError), no_trace_if_refused(str(folder)), working_alone(str(folder)):
        raise UserError("no")
    assert not folder.exists()
