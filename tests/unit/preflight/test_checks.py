"""All checks are made, and of several failures one is returned that says what the user can do."""

import pytest

from cclm.errors import NodeError, UserError
from cclm.events import Event, Journal, Notice, PreflightChecked
from cclm.preflight.checks import Check, run_checks
from cclm.storage import StoreUnavailable


class Recorder(list[Event]):
    """A sink that keeps the events."""

    def handle(self, event: Event) -> None:
        self.append(event)


def failing(error: Exception) -> Check:
    def look() -> str:
        raise error

    return Check(type(error).__name__, look)


def test_all_pass() -> None:
    recorder = Recorder()
    assert run_checks([Check("gpus", lambda: "8 x A100"), Check("inputs", lambda: "")], Journal([recorder])) is None
    found = [(event.check, event.problem, event.found) for event in recorder if isinstance(event, PreflightChecked)]
    assert found == [("gpus", None, "8 x A100"), ("inputs", None, "")]


def test_what_the_user_has_to_mend_comes_first() -> None:
    recorder = Recorder()
    node, user = NodeError("a GPU is lost"), UserError("data.images.files: x does not exist")
    assert run_checks([failing(node), failing(user), Check("last", lambda: "")], Journal([recorder])) is user
    checked = [event for event in recorder if isinstance(event, PreflightChecked)]
    assert [event.problem for event in checked] == [str(node), str(user), None]
    assert Notice("preflight: a GPU is lost") in recorder


@pytest.mark.parametrize("error", [NodeError("a"), StoreUnavailable("b"), UserError("c")])
def test_an_error_stays_what_it_is(error: Exception) -> None:
    assert run_checks([failing(error)], Journal([])) is error


def test_what_a_disk_refuses_is_for_the_user() -> None:
    assert isinstance(run_checks([failing(OSError("no"))], Journal([])), UserError)
