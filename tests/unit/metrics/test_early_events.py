"""What happened before the run had a folder: one process of a pod tells it, once."""

import pytest

from cclm.events import Notice, Warned
from cclm.launch_contract import METRICS_NOTICE, METRICS_WARNING
from cclm.metrics.early_events import take_early_events
from cclm.metrics.endpoint import serving_process


def test_the_first_process_of_a_pod_tells_it_once() -> None:
    environment = {METRICS_NOTICE: "n", METRICS_WARNING: "w", "LOCAL_RANK": "0"}
    assert take_early_events(environment) == [Notice("n"), Warned("w")]
    assert take_early_events(environment) == []


def test_the_others_leave_it() -> None:
    environment = {METRICS_WARNING: "w", "LOCAL_RANK": "1"}
    assert take_early_events(environment) == []
    assert environment[METRICS_WARNING] == "w"


def test_a_process_without_launcher_says_which_port_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    with serving_process(0) as served:
        assert served is not None
        sentence = f"metrics are served on port {served.port}: http://localhost:{served.port}/metrics"
        assert capsys.readouterr().out == f"{sentence}\n"
        assert take_early_events() == [Notice(sentence)] and take_early_events() == []
