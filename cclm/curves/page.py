"""The report as a page of HTML that needs no other file."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from cclm import __version__
from cclm.curves.figure import section_svg, style_of
from cclm.curves.overview import Row, rows_of_tests
from cclm.curves.panels import Section
from cclm.curves.runs import Run

_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1200px; margin: 2em auto;
  padding: 0 1.5em; }
h1 { font-size: 1.6em; margin-bottom: 0; } h2 { font-size: 1.2em; margin: 2em 0 .5em; }
p.small, footer { color: #666; font-size: .87em; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2em 1.2em .2em 0; border-bottom: 1px solid #ddd; vertical-align: top; }
th { font-weight: 600; } tbody th { font-weight: normal; color: #555; white-space: nowrap; }
span.swatch { display: inline-block; width: 1.6em; border-top-width: 4px; vertical-align: middle; margin-right: .5em; }
li { color: #a33; } svg { width: 100%; height: auto; }
"""

_BORDERS = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "double"}
"""CSS for the dashes of `style_of`."""


def report_page(title: str, rows: Sequence[Row], sections: Sequence[Section], runs: Sequence[Run]) -> str:
    """The whole page."""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
        '<p class="small">Losses are means of each logging interval over all processes, not weighted. A long curve is '
        "pale, and its running mean lies above it. Dotted vertical lines: the run went on from a checkpoint.</p>",
        _notes([note for run in runs for note in run.notes]),
        _table([Row("", [run.name for run in runs]), Row("folder", [run.url for run in runs]), *rows], swatches=True),
    ]
    for number, section in enumerate(sections):
        parts += [f"<h2>{html.escape(section.title)}</h2>", _own_ids(section_svg(section, runs), f"s{number}-")]
    for run in runs:
        tests = rows_of_tests(run)
        if tests:
            parts += [f"<h2>Tests of {html.escape(run.name)}</h2>", _table(tests)]
    parts += [f"<footer><p>Drawn by cclm {html.escape(__version__)} from metrics.jsonl.</p></footer></body></html>", ""]
    return "\n".join(parts)


def _notes(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f"<ul>{items}</ul>" if items else ""


def _table(rows: Sequence[Row], *, swatches: bool = False) -> str:
    """A table whose first row is its header; swatches: its columns are runs, shown with their colours."""
    head, *body = rows
    titles = []
    for index, cell in enumerate(head.cells):
        swatch = ""
        if swatches:
            colour, dashes = style_of(index)
            swatch = f'<span class="swatch" style="border-top-style:{_BORDERS[dashes]};border-color:{colour}"></span>'
        titles.append(f"<th>{swatch}{html.escape(cell)}</th>")
    lines = [
        f"<tr><th>{html.escape(row.label)}</th>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row.cells)}</tr>"
        for row in body
    ]
    return (
        f'<div class="wide"><table><thead><tr><th>{html.escape(head.label)}</th>{"".join(titles)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _own_ids(svg: str, prefix: str) -> str:
    """The picture with ids that no other picture of the page has."""
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    return re.sub(r'(url\(|href=")#', rf"\g<1>#{prefix}", svg)
