"""Write the dashboards of the chart.

python -m k8s.monitoring.dashboards helm/cclm-pretrain/files/dashboards
"""

from __future__ import annotations

import sys
from pathlib import Path

from k8s.monitoring.fleet_dashboard import FLEET_DASHBOARD
from k8s.monitoring.grafana import json_of
from k8s.monitoring.hardware_dashboard import HARDWARE_DASHBOARD
from k8s.monitoring.run_dashboard import RUN_DASHBOARD

DASHBOARDS = {"run": RUN_DASHBOARD, "fleet": FLEET_DASHBOARD, "hardware": HARDWARE_DASHBOARD}
"""Name of the file -> what it shows."""


def write(folder: Path) -> None:
    """Write all of them as JSON into a folder."""
    for name, dashboard in DASHBOARDS.items():
        (folder / f"{name}.json").write_text(json_of(dashboard), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
