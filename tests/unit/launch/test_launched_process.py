"""What ties a training process to its launcher."""

import os
import signal
import subprocess
import sys

import pytest

from cclm.launch_contract import LAUNCHER_PID


@pytest.mark.parametrize("is_asked_about", [True, False], ids=["gone", "still-listed"])
def test_a_process_whose_launcher_has_ended_ends_at_once(is_asked_about: bool) -> None:
    launcher = subprocess.Popen([sys.executable, "-S", "-c", ""])
    os.waitid(os.P_PID, launcher.pid, os.WEXITED | (0 if is_asked_about else os.WNOWAIT))
    code = "from cclm.launch.launched_process import die_with_launcher; die_with_launcher(); print('goes on')"
    environment = os.environ | {LAUNCHER_PID: str(launcher.pid)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, ""), done.stderr
    launcher.wait()
