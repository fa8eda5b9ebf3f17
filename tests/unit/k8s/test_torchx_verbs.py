"""The verbs that k8s adds to TorchX, and what a user's mistake looks like in any of them."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta

import pytest
import yaml
from torchx.cli.cmd_base import SubCommand
from torchx.cli.main import run_main

from cclm.errors import UserError
from k8s import commands
from k8s.scheduler import KubernetesScheduler

VERBS = {
    "status": commands.Status, "cancel": commands.Cancel, "describe": commands.Describe, "delete": commands.Delete,
}  # fmt: skip


@pytest.mark.parametrize("code", ["raise UserError('a.yaml: no such key')", "thread()"])
def test_a_users_mistake_is_one_sentence_and_exit_code_2(code: str) -> None:
    program = (
        "import threading; from cclm.errors import UserError; from k8s.scheduler import create_scheduler\n"
        "create_scheduler('a'); create_scheduler('b')\n"
        "def fail(): raise UserError('a.yaml: no such key')\n"
        "def thread():\n"
        "    one = threading.Thread(target=fail); one.start(); one.join(); fail()\n"
        f"{code}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: a.yaml: no such key\n")


def test_the_mistake_of_a_thread_is_told_while_the_others_go_on() -> None:
    program = (
        "import sys, threading; from cclm.errors import UserError; from k8s.scheduler import create_scheduler\n"
        "create_scheduler('a')\n"
        "def fail(): raise UserError('replica 1 cannot be read')\n"
        "one = threading.Thread(target=fail); one.start(); one.join()\n"
        "print('the others end', file=sys.stderr)\n"
        "fail()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: replica 1 cannot be read\nthe others end\n")


def test_other_errors_keep_their_traceback() -> None:
    program = "from k8s.scheduler import create_scheduler; create_scheduler('a'); 1 / 0"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.mark.parametrize("verb", ["status", "cancel", "describe", "delete"])
def test_what_is_no_handle_is_one_sentence(verb: str) -> None:
    with pytest.raises(UserError, match="^nonsense is no handle of a job; write it as torchx run printed it, such as "):
        run_main({verb: VERBS[verb]()}, [verb, "nonsense"])
    with pytest.raises(UserError, match="^there is no scheduler slum; there are kubernetes, "):
        run_main({verb: VERBS[verb]()}, [verb, "slum://torchx/x"])


@pytest.mark.parametrize(("verb", "command"), [("log", commands.Log), ("cancel", commands.Cancel)])
def test_where_there_is_no_such_job_that_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, verb: str, command: type[SubCommand]
) -> None:
    """TorchX's own `log` waits until there is one, and its `cancel` says nothing."""
    monkeypatch.setattr(KubernetesScheduler, "exists", lambda self, app_id: False)
    with pytest.raises(UserError, match="^there is no job team:x; see the jobs with: torchx list -s kubernetes"):
        run_main({verb: command()}, [verb, "kubernetes://torchx/team:x"])


def test_the_log_of_another_scheduler_is_not_looked_for() -> None:
    with pytest.raises(UserError, match="^there is no scheduler slum; "):
        run_main({"log": commands.Log()}, ["log", "slum://torchx/x"])


def test_a_dry_run_prints_yaml_alone(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "-s", "kubernetes", "--dryrun", "utils.echo", "--msg", "hello", "--image", "a:1"]
    run_main({"run": commands.Run()}, words)
    printed = capsys.readouterr().out
    job = yaml.safe_load(printed)
    assert job["kind"] == "PyTorchJob"
    assert "# === APPLICATION ===\n# { " in printed and "hello" in printed.partition("# === SCHEDULER REQUEST")[0]


def test_times_are_given_as_spans_or_dates() -> None:
    before = datetime.now().astimezone()
    moment = commands.moment("10m") + timedelta(minutes=10)
    assert before <= moment <= datetime.now().astimezone()
    assert commands.moment("2026-01-31T12:00+00:00").isoformat() == "2026-01-31T12:00:00+00:00"
    with pytest.raises(UserError, match="not a time: soon; write 10m"):
        commands.moment("soon")
