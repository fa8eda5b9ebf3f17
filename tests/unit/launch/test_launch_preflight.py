"""A pod on a broken machine does not make room for the next one at once."""

import pytest

from cclm.errors import NodeError, UserError
from cclm.events import Event, Journal, Notice
from cclm.launch import preflight
from cclm.launch.causes import Cause
from cclm.preflight.checks import Check, Preflight


def failing(error: Exception) -> Preflight:
    def look() -> str:
        raise error

    return Preflight([Check("gpus", look)], lambda processes, fewest: [])


@pytest.mark.parametrize(
    ("error", "cause", "is_in_pod", "is_held"),
    [
        (NodeError("a GPU is lost"), Cause.HARDWARE, True, True),
        (NodeError("a GPU is lost"), Cause.HARDWARE, False, False),
        (UserError("no such file"), Cause.USER_ERROR, True, False),
    ],
)
def test_who_is_held(
    monkeypatch: pytest.MonkeyPatch, error: Exception, cause: Cause, is_in_pod: bool, is_held: bool
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(preflight.time, "sleep", slept.append)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if is_in_pod:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    events: list[Event] = []
    sink = type("Sink", (), {"handle": lambda self, event: events.append(event)})()
    failure = preflight.check_machine(failing(error), Journal([sink]))
    assert failure is not None and (failure.cause, failure.message) == (cause, str(error))
    assert slept == ([30.0] if is_held else [])
    assert any(isinstance(event, Notice) for event in events) == is_held
