"""Draw the trade-off of a training as one SVG file: the chart of a report and its legend, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from hypergen.report.columns import Records
from hypergen.report.trade_off import HEIGHT, WIDTH, Place, marks_of, trade_off_chart

TITLE_HEIGHT, LINE_HEIGHT, LEGEND = 30, 22, 300
STYLE = """
:root { --paper: #fcfcfa; --ink: #1d2126; --muted: #626a73; --line: #dfe2e4; --accent: #0b6e75; --good: #1d7a46 }
@media (prefers-color-scheme: dark) { :root { --paper: #15181b; --ink: #e4e6e8; --muted: #9aa3ab; --line: #32383d;
  --accent: #5cc4c9; --good: #5fc98f } }
.paper { fill: var(--paper) } text { font: 13px sans-serif; fill: var(--ink) } .grid { stroke: var(--line) }
.label { fill: var(--muted) } .line { fill: none; stroke: var(--accent); stroke-width: 1.5; opacity: .6 }
.end { fill: var(--accent) }
.mark { fill: var(--ink); stroke: var(--paper) } .mark.ours { fill: var(--good) }
.letter { fill: var(--paper); font-size: 12px; font-weight: 600 }
"""


def trade_off_file(title: str, records: Records, way: Sequence[Place]) -> str:
    """Draw the chart below its title and beside its legend, as one SVG file that needs nothing else.

    Args:
        title: of the base.
        records: rows of the table, some of which become marks.
        way: of the main training.
    """
    marks = marks_of(records)
    lines = [part for mark in marks for part in mark.legend.split(": ", 1)] + ["dots: epochs of the training"]
    legend = "\n".join(
        f'<text x="{WIDTH + 14}" y="{TITLE_HEIGHT + 30 + LINE_HEIGHT * number}">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    width, height = WIDTH + LEGEND, HEIGHT + TITLE_HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
        f"<style>{STYLE}</style>\n"
        f'<rect class="paper" width="{width}" height="{height}"/>\n<text x="46" y="20">{escape(title)}</text>\n'
        f'<svg y="{TITLE_HEIGHT}" width="{WIDTH}" height="{HEIGHT}">\n{trade_off_chart(title, marks, way)}\n</svg>\n'
        f"{legend}\n</svg>\n"
    )
