"""However a launch ends, the last event says so, with the exit code that is returned."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from cclm.errors import UserError
from cclm.events import Ended, Event, Journal
from cclm.launch import launcher, torchrun
from cclm.launch.attempts import Attempts
from cclm.launch.causes import Cause, Failure

OPTIONS = launcher.LaunchOptions(["pretrain"], [], [], None, 5, 30, 600)


class Recorder(list[Event]):
    """A sink that keeps the events."""

    def handle(self, event: Event) -> None:
        self.append(event)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (None, Ended(0, None, "", may_retry=False)),
        (Failure(Cause.KILLED, "was killed by SIGKILL", rank=3),
         Ended(137, "KILLED", "rank 3 was killed by SIGKILL", may_retry=True)),
        (Failure(Cause.BUG, "KeyError: 'x'", "Traceback ...\n", rank=0),
         Ended(1, "BUG", "rank 0: KeyError: 'x'", may_retry=False, traceback="Traceback ...\n")),
        (launcher.StoppedEarly(signal.SIGTERM),
         Ended(143, "PREEMPTED", "stopped by SIGTERM before training began", may_retry=True)),
        (launcher.StoppedEarly(signal.SIGINT),
         Ended(130, "INTERRUPTED", "interrupted before training began", may_retry=True)),
    ],
)  # fmt: skip
def test_the_end_is_an_event(
    monkeypatch: pytest.MonkeyPatch, outcome: Failure | launcher.StoppedEarly | None, expected: Ended
) -> None:
    def run(*_: object) -> Failure | None:
        if isinstance(outcome, launcher.StoppedEarly):
            raise outcome
        return outcome

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(launcher, "_launch", run)
    recorder = Recorder()
    assert launcher.launch(OPTIONS, Journal([recorder])) == expected.exit_code
    assert recorder == [expected]


def test_a_launch_in_the_folder_of_a_living_run_writes_no_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[int] = []

    def refuse(_: object, attempts: Attempts, *__: object) -> None:
        starts.append(attempts.begin())
        raise UserError("the folder is in use")

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(torchrun, "build_agent", refuse)
    options = replace(OPTIONS, folders=[str(tmp_path)], is_folder_taken=lambda: True)
    settings = torchrun.parse_options([], ["pretrain"], str(tmp_path / "logs"))
    failure = launcher._run_agent(options, settings, Journal())
    assert failure is not None and failure.cause is Cause.USER_ERROR
    assert starts == [1] and not list(tmp_path.glob("attempts-*"))
