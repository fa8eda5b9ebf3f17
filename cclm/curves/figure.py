"""Charts by matplotlib, which an extra installs: nothing here is imported before it is known to be there."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cclm.curves import text_tables
from cclm.curves.overview import Row, rows_of_tests
from cclm.curves.panels import Curve, Look, Panel, Section
from cclm.curves.runs import Run

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType  # older versions lack it

Dashes: TypeAlias = Literal["-", "--", ":", "-."]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")
"""The palette of Okabe and Ito, which colour-blind readers can tell apart."""
_DASHES: tuple[Dashes, ...] = ("-", "--", ":", "-.")
"""For runs of the same colour."""

_COLUMNS = 3
_WIDTH, _HEIGHT = 4.0, 2.5
"""Of a panel, in inches."""
_DPI = 110
_FULL_WIDTH = _WIDTH * _COLUMNS
_MARGIN = 0.12
"""Around texts, in inches."""
_HANDLE = 0.7
"""Width of the line before a name in a legend, in inches."""
_MANY_POINTS = 200
"""A noisy curve of more points is drawn pale, below its running mean."""
_MEANS = 50
"""The window of the running mean is the number of points divided by this."""

_THICKEST, _THINNER = 2.0, 0.9
"""Line width of the first run, and how much thinner the last run's line is. So equal curves can all be seen."""

_STYLE: dict[RcKeyType, str | float] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "text.parse_math": False,  # names of runs may hold dollar signs
    "axes.formatter.useoffset": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "cclm",  # the same numbers give the same picture
    "figure.constrained_layout.use": True,
}


class LineStyle(NamedTuple):
    """How a run's curves look."""

    colour: str
    dashes: Dashes


def style_of(run: int) -> LineStyle:
    """The style of the run of this index, everywhere in a report."""
    return LineStyle(COLOURS[run % len(COLOURS)], _DASHES[run // len(COLOURS) % len(_DASHES)])


def section_svg(section: Section, runs: Sequence[Run]) -> str:
    """A section as an `<svg>` element for a page of HTML, which refers to nothing outside."""
    with _styled():
        figure = Figure(figsize=(_FULL_WIDTH, _section_height(section)))
        _draw_section(figure, section, runs)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    _, _, element = buffer.getvalue().partition("<svg")
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    return "<svg" + re.sub(r' xmlns(:xlink)?="[^"]*"', "", element)  # HTML knows both names without


def report_png(title: str, rows: Sequence[Row], sections: Sequence[Section], runs: Sequence[Run]) -> bytes:
    """Notes, the tables and all sections in one picture: what `report_page` has."""
    buffer = io.BytesIO()
    with _styled():
        report_figure(title, rows, sections, runs).savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def report_figure(title: str, rows: Sequence[Row], sections: Sequence[Section], runs: Sequence[Run]) -> Figure:
    """The same as a figure of matplotlib."""
    with _styled():
        head = _head_panel(title, rows, runs)
        tests = [_table_panel(f"Tests of {run.name}", tests) for run in runs if (tests := rows_of_tests(run))]
        heights = [head.height, *(_section_height(section) + 0.4 for section in sections)]
        heights += [panel.height for panel in tests]
        figure = Figure(figsize=(_FULL_WIDTH, sum(heights)))
        parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, panel in zip([parts[0], *parts[len(sections) + 1 :]], [head, *tests], strict=True):
            _draw_texts(part, panel)
        for part, section in zip(parts[1:], sections, strict=False):
            part.suptitle(section.title, x=0.01, ha="left", fontsize=12, fontweight="bold")
            _draw_section(part, section, runs)
    return figure


@dataclass(frozen=True)
class _TextPanel:
    """A part of the picture that holds texts: a title, notes and a table."""

    title: list[str]
    title_size: float
    notes: list[str]
    blocks: list[text_tables.Block]
    colours: list[str]
    """Of the titles of the table's columns; empty: black."""

    @property
    def title_height(self) -> float:
        return _MARGIN + text_tables.LINE * len(self.title) * self.title_size / text_tables.SIZE + 0.1

    @property
    def height(self) -> float:
        notes = text_tables.LINE * len(self.notes) + (0.1 if self.notes else 0)
        return self.title_height + notes + sum(block.height + _MARGIN for block in self.blocks)


def _head_panel(title: str, rows: Sequence[Row], runs: Sequence[Run]) -> _TextPanel:
    width = _FULL_WIDTH - 2 * _MARGIN
    head = Row("", [run.name for run in runs])
    table = [Row("folder", [run.url for run in runs]), *rows]
    return _TextPanel(
        text_tables.wrap(title, width, bold=True, size=14),
        14,
        [line for run in runs for note in run.notes for line in text_tables.wrap(note, width)],
        text_tables.blocks_of(head, table, width),
        [style_of(run).colour for run in range(len(runs))],
    )


def _table_panel(title: str, rows: Sequence[Row]) -> _TextPanel:
    """A table whose first row is its header."""
    width = _FULL_WIDTH - 2 * _MARGIN
    blocks = text_tables.blocks_of(rows[0], rows[1:], width)
    return _TextPanel(text_tables.wrap(title, width, bold=True, size=12), 12, [], blocks, [])


def _draw_texts(part: SubFigure, panel: _TextPanel) -> None:
    axes = part.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-_MARGIN, _FULL_WIDTH - _MARGIN)
    axes.set_ylim(panel.height, 0)
    text_tables.draw_lines(axes, panel.title, 0, _MARGIN, bold=True, size=panel.title_size)
    y = panel.title_height
    text_tables.draw_lines(axes, panel.notes, 0, y, colour="#aa3333")
    y += text_tables.LINE * len(panel.notes) + (0.1 if panel.notes else 0)
    for block in panel.blocks:
        text_tables.draw_block(axes, block, y, panel.colours)
        y += block.height + _MARGIN


@contextmanager
def _styled() -> Iterator[None]:
    """Our style, whatever matplotlibrc says; silence about letters that the font lacks."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def _section_height(section: Section) -> float:
    return _HEIGHT * math.ceil(len(section.panels) / _COLUMNS) + 0.4


def _draw_section(figure: Figure | SubFigure, section: Section, runs: Sequence[Run]) -> None:
    rows = math.ceil(len(section.panels) / _COLUMNS)
    axes: list[Axes] = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for panel, each in zip(section.panels, axes, strict=False):
        _draw_panel(each, panel, runs)
        each.set_xlim(*_all_steps(runs))
    for each in axes[len(section.panels) :]:
        each.set_axis_off()
    shown = sorted({curve.run for panel in section.panels for curve in panel.curves})
    handles = [
        Line2D([], [], color=style_of(run).colour, linestyle=style_of(run).dashes, linewidth=2.5) for run in shown
    ]
    labels = [runs[run].name for run in shown]
    if any(runs[run].resumed for run in shown):
        handles.append(Line2D([], [], color="#888888", linestyle=(0, (1, 2)), linewidth=1.2))
        labels.append("went on from a checkpoint")
    widest = max(map(text_tables.width_of, labels)) + _HANDLE
    columns = max(1, min(len(labels), int(_FULL_WIDTH / widest)))
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False)


def _draw_panel(axes: Axes, panel: Panel, runs: Sequence[Run]) -> None:
    for curve in panel.curves:
        _draw_curve(axes, curve, panel.look, _THICKEST - _THINNER * curve.run / len(runs))
    if panel.from_zero:
        axes.set_ylim(bottom=0)
    for curve in panel.curves:
        for step in runs[curve.run].resumed:
            axes.axvline(step, color=style_of(curve.run).colour, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)
    axes.set_title(panel.title)
    axes.set_xlabel("step")
    axes.set_ylabel(panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))


def _all_steps(runs: Sequence[Run]) -> tuple[float, float]:
    """The same horizontal axis for all charts, so that they can be compared: the first step, and the last with room."""
    steps = [line.step for run in runs for line in run.metrics.intervals]
    steps += [line.step for run in runs for line in run.metrics.scores]
    margin = max(1.0, 0.02 * (max(steps) - min(steps)))
    return min(steps) - margin, max(steps) + margin


def _draw_curve(axes: Axes, curve: Curve, look: Look, width: float) -> None:
    colour, dashes = style_of(curve.run)
    steps = np.asarray(curve.steps, dtype=np.float64)
    values = np.asarray(curve.values, dtype=np.float64)
    values[~np.isfinite(values)] = np.nan  # a gap
    is_long = look is Look.NOISY and len(values) > _MANY_POINTS
    marker = "o" if look is Look.POINTS else None
    axes.plot(
        steps, values, color=colour, linestyle=dashes, marker=marker, markersize=4, alpha=0.25 if is_long else 1.0,
        linewidth=0.8 if is_long else width,
    )  # fmt: skip
    alone = is_alone(values)
    axes.plot(steps[alone], values[alone], color=colour, linestyle="none", marker="o", markersize=6)
    if is_long:
        axes.plot(steps, running_mean(values, len(values) // _MEANS), color=colour, linestyle=dashes, linewidth=width)


def is_alone(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which values no line can show, since the values before and after them are absent (NaN): (N,) -> (N,)."""
    known = np.concatenate([[False], ~np.isnan(values), [False]])
    alone: npt.NDArray[np.bool_] = known[1:-1] & ~known[:-2] & ~known[2:]
    return alone


def running_mean(values: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
    """The mean of the values around each.

    Args:
        values: (N,); NaN counts as absent.
        window: number of values that are averaged; fewer at both ends.

    Returns:
        (N,); NaN where there is nothing to average.
    """
    known = ~np.isnan(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    places = np.arange(len(values))
    first = np.maximum(places - (window - 1) // 2, 0)
    last = np.minimum(places + window // 2 + 1, len(values))
    number = counts[last] - counts[first]
    return np.where(number > 0, (sums[last] - sums[first]) / np.maximum(number, 1), np.nan)
