"""The verbs that k8s adds to TorchX, and what a user's mistake looks like in any of them."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta

import pytest

from cclm.errors import UserError
from k8s import commands


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


def test_times_are_given_as_spans_or_dates() -> None:
    before = datetime.now().astimezone()
    moment = commands.moment("10m") + timedelta(minutes=10)
    assert before <= moment <= datetime.now().astimezone()
    assert commands.moment("2026-01-31T12:00+00:00").isoformat() == "2026-01-31T12:00:00+00:00"
    with pytest.raises(UserError, match="not a time: soon; write 10m"):
        commands.moment("soon")
