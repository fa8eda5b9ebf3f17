"""Files of the chart's dashboards and alerts, as their tests see them."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from k8s.monitoring.dashboards import DASHBOARDS
from k8s.monitoring.pictures import Window, fill_in
from tests.unit.k8s.recording import INTERVAL

FILES = Path(__file__).parents[3] / "helm" / "cclm-pretrain" / "files"
RULES = [rule for group in yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
ALERTS = [rule["alert"] for rule in RULES if "alert" in rule]
VARIABLES = {"namespace": "team", "run": "demo"}
WINDOW = Window(start=0, end=13 * 60, interval=INTERVAL)
"""As long as the recorded run."""


@dataclass(frozen=True)
class Asked:
    """An expression of a panel."""

    panel: dict[str, Any]
    expression: str
    legend: str


def panels(name: str) -> list[dict[str, Any]]:
    dashboard = json.loads((FILES / "dashboards" / f"{name}.json").read_text(encoding="utf-8"))
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def asked(variables: dict[str, str] = VARIABLES, window: Window = WINDOW) -> dict[str, Asked]:
    """Every expression of every panel, with the variables filled in, by a name of it."""
    found = {}
    for name in DASHBOARDS:
        for panel in panels(name):
            for target in panel["targets"]:
                expression = fill_in(target["expr"], variables, window)
                assert "$" not in expression
                identity = f"{name}: {panel['title']} {target['refId']}"
                found[identity] = Asked(panel, expression, target["legendFormat"])
    return found


MOST = {"percentunit": 1.001, "s": 1e6, "h": 1e3, "celsius": 120, "watt": 1000, "kwatth": 1e3}
"""Above these a number has another unit than is said."""


def check_unit(panel: dict[str, Any], values: list[float]) -> None:
    """Numbers of a panel are finite, and in the range of its unit."""
    assert all(math.isfinite(value) for value in values)
    defaults = panel["fieldConfig"]["defaults"]
    if "min" in defaults:
        assert min(values, default=math.inf) >= defaults["min"] - 1e-9
    assert max(values, default=-math.inf) <= MOST.get(defaults["unit"], math.inf)


ASKED = asked()
PANELS = {f"{name}: {panel['title']}": panel for name in DASHBOARDS for panel in panels(name)}
