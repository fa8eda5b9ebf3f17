"""Tables and paragraphs in a picture: texts are measured, so that none runs into another.

Lengths are in inches, and heights are measured from the top.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from cclm.curves.overview import Row

SIZE = 9.0
"""Of the letters, in points."""
LINE = 0.17
"""Height of a line."""
_ROW_GAP = 0.06
_COLUMN_GAP = 0.2
_WIDEST_LABEL, _WIDEST_COLUMN = 2.6, 2.4
"""Longer texts are broken into several lines."""
_POINTS_PER_INCH = 72.0


@dataclass
class Block:
    """A table, or those of its columns that fit beside one another."""

    head: list[list[str]]
    """The lines of each cell; the first cell is above the labels."""
    rows: list[list[list[str]]]
    """row -> cell -> lines; the first cell of a row is its label"""
    lefts: list[float]
    """Where each column begins."""
    columns: range
    """The columns of the whole table that the cells behind the labels are."""
    height: float = field(init=False)

    def __post_init__(self) -> None:
        self.height = sum(map(_height, [self.head, *self.rows])) + _ROW_GAP


def width_of(text: str, *, bold: bool = False, size: float = SIZE) -> float:
    """Of one line."""
    font = FontProperties(family="sans-serif", weight="bold" if bold else "normal", size=size)
    return _width_in_points(text, font) / _POINTS_PER_INCH


def wrap(text: str, width: float, *, bold: bool = False, size: float = SIZE) -> list[str]:
    """Break a text into lines of this width: between words, or within a word that is wider."""

    def measured(text: str) -> float:
        return width_of(text, bold=bold, size=size)

    lines: list[str] = []
    rest = text.strip()
    while measured(rest) > width and len(rest) > 1:
        fits = max(1, bisect_right(range(len(rest)), width, key=lambda end: measured(rest[:end])) - 1)
        space = rest.rfind(" ", 0, fits + 1)
        cut = space if space > 0 else fits
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return [*lines, rest]


def blocks_of(head: Row, rows: Sequence[Row], width: float) -> list[Block]:
    """Lay a table out. Columns that do not fit follow in further blocks.

    Args:
        head: the titles of the columns.
        width: of the picture.
    """
    labels = [head.label, *(row.label for row in rows)]
    label_width = min(_WIDEST_LABEL, max(map(width_of, labels))) + _COLUMN_GAP
    room = width - label_width
    widths = []
    for column, title in enumerate(head.cells):
        texts = [width_of(title, bold=True), *(width_of(row.cells[column]) for row in rows)]
        widths.append(min(_WIDEST_COLUMN, room - _COLUMN_GAP, max(texts)) + _COLUMN_GAP)
    blocks = []
    start = 0
    while start < len(widths):
        end = start + 1
        while end < len(widths) and sum(widths[start : end + 1]) <= room:
            end += 1
        lefts = [0.0, *(label_width + sum(widths[start:column]) for column in range(start, end))]
        texts_width = [label_width - _COLUMN_GAP, *(each - _COLUMN_GAP for each in widths[start:end])]
        blocks.append(
            Block(
                head=_wrapped([head.label, *head.cells[start:end]], texts_width, bold=True),
                rows=[_wrapped([row.label, *row.cells[start:end]], texts_width) for row in rows],
                lefts=lefts,
                columns=range(start, end),
            )
        )
        start = end
    return blocks


def draw_block(axes: Axes, block: Block, top: float, colours: Sequence[str]) -> None:
    """Draw a table.

    Args:
        axes: one unit is an inch, and the vertical axis points down.
        top: where it begins.
        colours: of the titles of the whole table's columns; empty: black.
    """
    y = top
    for cells in [block.head, *block.rows]:
        is_head = cells is block.head
        for column, (lines, left) in enumerate(zip(cells, block.lefts, strict=True)):
            colour = colours[block.columns[column - 1]] if is_head and column and colours else "black"
            draw_lines(axes, lines, left, y, colour=colour, bold=is_head)
        y += _height(cells)
        axes.axhline(y - _ROW_GAP / 2, color="#dddddd", linewidth=0.8)


def draw_lines(
    axes: Axes, lines: Sequence[str], left: float, top: float, *, colour: str = "black", bold: bool = False,
    size: float = SIZE,
) -> None:  # fmt: skip
    """Write lines below one another."""
    for number, line in enumerate(lines):
        axes.text(
            left, top + number * LINE * size / SIZE, line, color=colour, fontsize=size, va="top",
            fontweight="bold" if bold else "normal",
        )  # fmt: skip


def _wrapped(texts: Sequence[str], widths: Sequence[float], *, bold: bool = False) -> list[list[str]]:
    return [wrap(text, width, bold=bold) for text, width in zip(texts, widths, strict=True)]


def _height(cells: Sequence[Sequence[str]]) -> float:
    return LINE * max(map(len, cells)) + _ROW_GAP


@cache
def _measure() -> TextToPath:
    return TextToPath()


def _width_in_points(text: str, font: FontProperties) -> float:
    width, _, _ = _measure().get_text_width_height_descent(text, font, ismath=False)
    return float(width)
