"""Causes, from what processes leave behind to exit codes. The messages are those that torch really gives."""

import json
import signal
import subprocess
import sys

import pytest

from cclm.cli import launch as cli
from cclm.errors import UserError
from cclm.launch import exit_report
from cclm.launch.causes import Cause, Failure, classify_exception, classify_exit_code, exit_code_table, root_cause
from cclm.launch_contract import ERROR_FILE


def test_codes_are_told_apart_and_the_scheduler_may_trust_128():
    codes = [cause.code for cause in Cause]
    assert len(set(codes)) == len(codes) and max(codes) < 256 and 0 not in codes
    permanent = {Cause.BUG, Cause.USER_ERROR, Cause.ATTEMPTS_EXHAUSTED}
    assert {cause for cause in Cause if not cause.may_retry} == permanent
    for cause in Cause:
        assert f"{cause.code}  {cause.meaning}" in exit_code_table()
        assert f"{cause.code}  {cause.meaning}" in cli.EPILOG


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (1, Cause.BUG), (2, Cause.USER_ERROR), (77, Cause.BUG), (-signal.SIGKILL, Cause.KILLED), (137, Cause.KILLED),
        (-signal.SIGTERM, Cause.PREEMPTED), (143, Cause.PREEMPTED), (-signal.SIGABRT, Cause.COLLECTIVE_TIMEOUT),
        (-signal.SIGSEGV, Cause.CRASHED), (-signal.SIGBUS, Cause.CRASHED), (202, Cause.PEER_STOPPED),
        (130, Cause.INTERRUPTED),
        *((cause.code, cause) for cause in Cause),
    ],
)  # fmt: skip
def test_exit_codes_of_processes_that_left_no_word(code, cause):
    assert classify_exit_code(code).cause is cause


class DistError(RuntimeError):
    """By its name, as torch's."""


class StoreUnavailable(OSError):
    """By its name, as the storage layer's."""


class OutOfMemoryError(RuntimeError):
    """By its name, as torch's."""


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (UserError("lr is 0"), Cause.USER_ERROR),
        (AssertionError("rows"), Cause.BUG),
        (ValueError("Connection reset by peer"), Cause.BUG),  # not of a collective
        (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1"),
         Cause.LOST_PEER),
        (RuntimeError("Rank 0 successfully reached monitoredBarrier, but [gloo/x.cc] Broken pipe"), Cause.LOST_PEER),
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 3000ms "
                      "for recv operation to complete"), Cause.COLLECTIVE_TIMEOUT),
        (RuntimeError("Application timeout caused pair closure"), Cause.COLLECTIVE_TIMEOUT),  # gloo, in a backward pass
        (DistError("NCCL error in: ProcessGroupNCCL.cpp:1, remote process exited or there was a network error"),
         Cause.LOST_PEER),
        (DistError("wait timeout after 300000ms, keys: /default_pg/0//cpu//1"), Cause.COLLECTIVE_TIMEOUT),
        (StoreUnavailable("s3://bucket/x: no answer for 300 s"), Cause.STORAGE_OUTAGE),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), Cause.USER_ERROR),
        (RuntimeError("DataLoader worker (pid 77) is killed by signal: Killed. "), Cause.KILLED),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), Cause.HARDWARE),
    ],
    ids=str,
)  # fmt: skip
def test_exceptions(error, cause):
    assert classify_exception(error).cause is cause


def test_the_cause_is_not_what_followed_from_it():
    def root(*causes: Cause) -> Cause:
        return root_cause([Failure(cause, "") for cause in causes]).cause

    assert root(Cause.LOST_PEER, Cause.KILLED) is Cause.KILLED
    assert root(Cause.BUG, Cause.LOST_PEER, Cause.COLLECTIVE_TIMEOUT) is Cause.BUG
    assert root(Cause.PEER_STOPPED, Cause.PREEMPTED, Cause.PEER_STOPPED) is Cause.PREEMPTED
    assert root(Cause.KILLED, Cause.USER_ERROR) is Cause.USER_ERROR


def test_a_report_is_read_as_written_and_anything_else_is_not_one(tmp_path, monkeypatch):
    monkeypatch.setenv(ERROR_FILE, str(tmp_path / "error.json"))
    try:
        raise KeyError("width")
    except KeyError as error:
        assert exit_report.write(classify_exception(error), error)
    found = exit_report.parse(json.loads((tmp_path / "error.json").read_text()))
    assert found.cause is Cause.BUG
    assert "KeyError: 'width'" in found.traceback and "test_causes.py" in found.traceback
    for other in ({}, {"message": "<NONE>"}, [], None, {"cause": "X", "message": {"message": "", "extraInfo": {}}}):
        assert exit_report.parse(other) is None


def test_the_launcher_is_light_until_it_runs():
    modules = "sys, cclm.cli.main, cclm.cli.launch, cclm.launch.launcher"
    check = f"import {modules}; sys.exit(bool({{'torch', 'pydantic'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_an_abort_is_told_without_a_guess() -> None:
    """NCCL, glibc and C++ all end so."""
    message = classify_exit_code(-signal.SIGABRT).message
    assert all(word in message for word in ("NCCL", "glibc", "C++", "last lines"))


def test_the_advice_for_a_gpu_that_is_too_small_names_settings_that_exist() -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    failure = classify_exception(OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert failure.cause is Cause.USER_ERROR
    assert "(batch_size of each source of pre-training, training.batch_size of fine-tuning)" in failure.message
