"""Draw a dashboard's panels into a picture, for the docs. It is our own drawing, not Grafana's.

python -m k8s.monitoring.pictures helm/cclm-pretrain/files/dashboards/run.json http://localhost:9090 run.png \
    --start 1796052720 --end 1796053500 --variable namespace=team --variable run=demo

It reads the dashboard's JSON, asks a Prometheus, and needs matplotlib (the extra `report`).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import textwrap
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

_COLUMN_INCHES, _ROW_INCHES = 0.72, 0.42
_LEGEND_ENTRIES = 8
_COLOURS = (
    "#3274d9",
    "#e0752d",
    "#56a64b",
    "#b877d9",
    "#e02f44",
    "#8f8f8f",
    "#1f9ea8",
    "#f2cc0c",
    "#7a4b2b",
    "#ff7eb6",
)


@dataclass(frozen=True)
class Window:
    """The time that is shown."""

    start: float
    """Unix time in seconds, as `end`."""
    end: float
    interval: float
    """Seconds between two scrapes."""


@dataclass(frozen=True)
class Series:
    """One line of a panel."""

    name: str
    times: Sequence[float]
    """Unix time in seconds."""
    values: Sequence[float]


def in_unit(value: float, unit: str) -> str:
    """A number with Grafana's unit: `in_unit(0.25, "percentunit")` -> `25 %`."""
    if not math.isfinite(value):
        return str(value)
    if unit == "percentunit":
        return f"{100 * value:.4g} %"
    if unit == "s":
        for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return f"{value:.3g} s"
    if unit in ("bytes", "Bps"):
        size = min(4, int(math.log(abs(value), 1024))) if abs(value) >= 1 else 0
        return f"{value / 1024**size:.3g} {('', 'Ki', 'Mi', 'Gi', 'Ti')[size]}B{'/s' if unit == 'Bps' else ''}"
    names = {"none": "", "short": "", "celsius": " °C", "watt": " W", "kwatth": " kWh", "h": " h"}
    return f"{value:.4g}{names.get(unit, ' ' + unit.removeprefix('suffix:').strip())}"


def fill_in(expression: str, variables: Mapping[str, str], window: Window) -> str:
    """An expression without Grafana's variables.

    Raises:
        ValueError: a variable that nothing is known of.
    """
    known = {
        "__rate_interval": f"{4 * window.interval:.0f}s",
        "__range": f"{window.end - window.start:.0f}s",
        **variables,
    }

    def value(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise ValueError(f"{expression} needs --variable {match[1]}=VALUE")
        return known[match[1]]

    return re.sub(r"\$(\w+)", value, expression)


def ask(prometheus: str, target: Mapping[str, Any], variables: Mapping[str, str], window: Window) -> list[Series]:
    """The series of a panel's query.

    Raises:
        OSError: Prometheus does not answer, or refuses the expression.
    """
    parameters: dict[str, str | float] = {"query": fill_in(target["expr"], variables, window)}
    if target["instant"]:
        path, parameters["time"] = "query", window.end
    else:
        path = "query_range"
        step = max(window.interval, (window.end - window.start) / 300)
        parameters |= {"start": window.start, "end": window.end, "step": step}
    url = f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        found = json.load(answer)["data"]["result"]
    return [_series(each, target["legendFormat"]) for each in found]


def _series(found: Mapping[str, Any], legend: str) -> Series:
    name = re.sub(r"{{(\w+)}}", lambda match: found["metric"].get(match[1], ""), legend)
    samples = found["values"] if "values" in found else [found["value"]]
    return Series(name, [float(at) for at, _ in samples], [float(value) for _, value in samples])


def draw(dashboard: Mapping[str, Any], prometheus: str, variables: Mapping[str, str], window: Window) -> Figure:
    """The whole dashboard."""
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    width, height = 24 * _COLUMN_INCHES, (rows + 2) * _ROW_INCHES
    figure = Figure(figsize=(width, height), facecolor="white")
    title = "   ".join([dashboard["title"], *(f"{name}: {value}" for name, value in variables.items())])
    figure.text(0.01, 1 - 0.6 / (rows + 2), title, fontsize=15, weight="bold", va="center")
    note = "drawn by k8s/monitoring/pictures.py from the dashboard's file, not by Grafana"
    figure.text(0.99, 1 - 0.6 / (rows + 2), note, fontsize=9, color="#666666", ha="right", va="center")
    for panel in panels:
        place = panel["gridPos"]
        left, top = place["x"] / 24, 1 - (place["y"] + 1.2) / (rows + 2)
        if panel["type"] == "row":
            figure.text(left + 0.01, top - 0.5 / (rows + 2), panel["title"], fontsize=13, va="center", color="#3274d9")
            continue
        wide, high = place["w"] / 24, place["h"] / (rows + 2)
        heading = textwrap.shorten(panel["title"], width=int(8.3 * place["w"]), placeholder="...")
        figure.text(left + 0.01, top - 0.55 / (rows + 2), heading, fontsize=10, weight="bold", va="center")
        box = (left + 0.045, top - high + 2.3 / (rows + 2), wide - 0.06, high - 3.5 / (rows + 2))
        if panel["type"] == "stat":
            box = (left + 0.01, top - high + 0.2 / (rows + 2), wide - 0.02, high - 1.2 / (rows + 2))
        series = [one for target in panel["targets"] for one in ask(prometheus, target, variables, window)]
        _draw_panel(figure.add_axes(box), panel, series, window)
    return figure


def _draw_panel(axes: Axes, panel: Mapping[str, Any], series: Sequence[Series], window: Window) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    if not series:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color="#999999", transform=axes.transAxes)
    elif panel["type"] == "stat":
        axes.set_axis_off()
        text = in_unit(series[0].values[-1], unit)
        axes.text(0.5, 0.5, text, fontsize=22, ha="center", va="center", color="#3a7d34", transform=axes.transAxes)
    elif panel["type"] == "bargauge":
        _draw_ranking(axes, series, unit)
    else:
        _draw_times(axes, panel, series, window)


def _draw_ranking(axes: Axes, series: Sequence[Series], unit: str) -> None:
    values = [one.values[-1] for one in series]
    bars = axes.barh([one.name for one in series], values, color=_COLOURS[0], height=0.5)
    axes.bar_label(bars, [in_unit(value, unit) for value in values], padding=3, fontsize=8)
    axes.set_xlim(0, 1.25 * max([*values, 1e-9]))
    axes.set_ylim(-1, len(series))
    axes.invert_yaxis()
    axes.tick_params(labelsize=8, left=False, bottom=False, labelbottom=False)
    axes.set_yticks(range(len(series)), [one.name for one in series], ha="left", va="bottom", position=(0.01, 0))
    axes.tick_params(axis="y", pad=-4)
    for label in axes.get_yticklabels():
        label.set_y(0)
        label.set_transform(axes.get_yaxis_transform())
    for side in axes.spines.values():
        side.set_visible(False)


def _draw_times(axes: Axes, panel: Mapping[str, Any], series: Sequence[Series], window: Window) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults.get("custom", {})
    is_stacked = custom.get("stacking", {}).get("mode") == "normal"
    if is_stacked:
        series = [one for one in series if any(one.values)] or series[:1]
    floors: dict[float, float] = {}
    for number, one in enumerate(series):
        colour = _COLOURS[number % len(_COLOURS)]
        below = [floors.get(at, 0.0) for at in one.times]
        tops = [floor + value for floor, value in zip(below, one.values, strict=True)] if is_stacked else one.values
        label = textwrap.shorten(one.name, 28, placeholder="...") if number < _LEGEND_ENTRIES else None
        if custom.get("drawStyle") == "bars":
            axes.bar(one.times, one.values, bottom=below, width=0.8 * window.interval, color=colour, label=label)
        else:
            axes.plot(one.times, tops, color=colour, linewidth=1.2, label=label)
            if is_stacked:
                axes.fill_between(one.times, below, tops, color=colour, alpha=0.35)
        if is_stacked:
            floors |= dict(zip(one.times, tops, strict=True))
    limits = [step["value"] for step in defaults["thresholds"]["steps"] if step["value"] is not None]
    for limit in limits:
        axes.axhline(limit, color="#e02f44", linewidth=0.8, linestyle="--")
    if "min" in defaults:
        axes.set_ylim(bottom=defaults["min"])
    axes.set_xlim(window.start, window.end)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{datetime.fromtimestamp(at, UTC):%H:%M}"))
    unit = defaults["unit"]
    if unit.startswith("suffix:"):  # too long for every number of the axis
        axes.set_title(unit.removeprefix("suffix:").strip(), fontsize=7, loc="left", pad=3, color="#666666")
        unit = "none"
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, unit)))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if not any(one.name.strip() for one in series):
        return
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.02, -0.13), ncols=4, fontsize=6.5, frameon=False, handlelength=1,
        columnspacing=1,
    )  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line and write the picture."""
    parser = argparse.ArgumentParser(prog="python -m k8s.monitoring.pictures", description="Draw a dashboard.")
    parser.add_argument("dashboard", type=Path, help="its JSON")
    parser.add_argument("prometheus", help="URL of a Prometheus")
    parser.add_argument("picture", type=Path, help="PNG or SVG to write")
    parser.add_argument("--start", type=float, required=True, help="Unix time in seconds")
    parser.add_argument("--end", type=float, required=True, help="Unix time in seconds")
    parser.add_argument("--interval", type=float, default=30, help="seconds between two scrapes (default: 30)")
    parser.add_argument("--variable", action="append", default=[], metavar="NAME=VALUE", help="of the dashboard")
    args = parser.parse_args(words)
    variables = dict(word.split("=", 1) for word in args.variable)
    dashboard = json.loads(args.dashboard.read_text(encoding="utf-8"))
    figure = draw(dashboard, args.prometheus.rstrip("/"), variables, Window(args.start, args.end, args.interval))
    figure.savefig(args.picture, dpi=90)


if __name__ == "__main__":
    main()
