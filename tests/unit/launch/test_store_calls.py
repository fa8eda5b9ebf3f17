"""A store that does not answer holds up neither a signal nor the end of a launch."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from cclm.events import Event, Journal, Notice
from cclm.launch import store_calls
from cclm.launch.attempts import Attempts
from cclm.launch.causes import Cause, Failure
from cclm.launch.launcher import _settle_attempts


class Stop(Exception):
    """As torch's agent raises: an Exception, which the libraries of stores may catch."""


class SilentStore:
    """A call that sends a signal, and does not return before it is released."""

    def __init__(self, number: int | None) -> None:
        self._number = number
        self._released = threading.Event()

    def __call__(self) -> None:
        if self._number is not None:
            os.kill(os.getpid(), self._number)
        self._released.wait()

    def release(self) -> None:
        self._released.set()


@pytest.fixture
def handlers() -> Iterator[None]:
    """Those of SIGTERM and SIGINT are what they were afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_signal_ends_the_waiting_for_a_store() -> None:
    def stop(number: int, frame: object) -> None:
        raise Stop

    signal.signal(signal.SIGTERM, stop)
    store = SilentStore(signal.SIGTERM)
    with pytest.raises(Stop):
        store_calls.interruptible(store)
    store.release()
    assert store_calls.interruptible(lambda: 7) == 7
    with pytest.raises(FileNotFoundError):
        store_calls.interruptible(lambda: open("/does/not/exist"))


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(("is_stopped", "number"), [(True, None), (False, signal.SIGTERM), (False, signal.SIGINT)])
def test_after_a_signal_the_last_call_gets_seconds(
    monkeypatch: pytest.MonkeyPatch, is_stopped: bool, number: int | None
) -> None:
    monkeypatch.setattr(store_calls, "_SECONDS_AFTER_SIGNAL", 0.2)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    store = SilentStore(number)
    assert not store_calls.finish(store, is_stopped=is_stopped)
    store.release()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    assert store_calls.finish(lambda: None, is_stopped=is_stopped)


class SilentAttempts(Attempts):
    """A count in a store that does not answer."""

    def __init__(self, store: SilentStore) -> None:
        super().__init__(["memory://run"], "pretrain", "job", 3)
        self._store = store

    def take_back(self, *, is_loss: bool = False) -> int:
        self._store()
        return 0


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(("cause", "number"), [(Cause.PREEMPTED, None), (Cause.USER_ERROR, signal.SIGTERM)])
def test_a_launch_that_is_stopped_does_not_wait_for_its_count(
    monkeypatch: pytest.MonkeyPatch, cause: Cause, number: int | None
) -> None:
    class Recorder(list[Event]):
        def handle(self, event: Event) -> None:
            self.append(event)

    monkeypatch.setattr(store_calls, "_SECONDS_AFTER_SIGNAL", 0.2)
    store, recorder = SilentStore(number), Recorder()
    _settle_attempts(SilentAttempts(store), Failure(cause, "why"), Journal([recorder]))
    [notice] = recorder
    assert isinstance(notice, Notice) and "memory://run/attempts-pretrain.json" in notice.text
    store.release()
