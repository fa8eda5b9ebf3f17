"""Dashboards of the chart: what the generator writes, and what each panel says."""

import re
from pathlib import Path
from typing import Any

import pytest

from k8s.monitoring.dashboards import DASHBOARDS, write
from k8s.monitoring.outside_metrics import OUTSIDE_METRICS
from tests.unit.k8s.dashboard_files import ALERTS, ASKED, FILES, PANELS, RULES, panels

UNITS = {"none", "short", "percentunit", "s", "h", "bytes", "Bps", "celsius", "watt", "kwatth"}


def test_the_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    write(tmp_path)
    kept = {path.name: path.read_text() for path in (FILES / "dashboards").iterdir()}
    assert kept == {path.name: path.read_text() for path in tmp_path.iterdir()}, (
        "make them again: python -m k8s.monitoring.dashboards helm/cclm-pretrain/files/dashboards"
    )


@pytest.mark.parametrize("panel", PANELS.values(), ids=PANELS)
def test_each_panel_asks_a_question_and_says_what_its_answer_is(panel: dict[str, Any]) -> None:
    assert re.fullmatch(r"[A-Z].*\?", panel["title"])
    assert panel["description"].endswith(".")
    unit = panel["fieldConfig"]["defaults"]["unit"]
    assert unit in UNITS or unit.startswith("suffix: ")
    [link] = panel["links"]
    alert = link["title"].removeprefix("Alert ")
    assert alert in ALERTS and link["url"].endswith(f"search=rule:{alert}")


def test_panels_are_told_apart_and_every_alert_has_one() -> None:
    for name in DASHBOARDS:
        identities = [panel["id"] for panel in panels(name)]
        assert len({*identities}) == len(identities) and 0 not in identities
        titles = [panel["title"] for panel in panels(name)]
        assert len({*titles}) == len(titles)
    assert {panel["links"][0]["title"].removeprefix("Alert ") for panel in PANELS.values()} == {*ALERTS}


def test_known_metrics_are_all_in_use() -> None:
    """The list of outside metrics names none that is used no more."""
    text = " ".join([*(each.expression for each in ASKED.values()), *(rule["expr"] for rule in RULES)])
    assert [name for name in OUTSIDE_METRICS if not re.search(rf"\b{name}\b", text)] == []
