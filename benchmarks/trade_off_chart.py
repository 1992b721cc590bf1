"""Draw the trade-off of a training by epoch as one SVG file, with the charts that the report draws on its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from hypergen.report.chart import HEIGHT, LEFT, WIDTH, Point, line_chart

TITLE_HEIGHT = 26  # above each chart
STYLE = (
    "svg { background: #fcfcfa } text { font: 13px sans-serif; fill: #1d2126 } .grid { stroke: #dfe2e4 } "
    ".label { fill: #626a73; font-size: 11px } .line { fill: none; stroke: #0b6e75; stroke-width: 2 } "
    ".end { fill: #0b6e75 }"
)


def trade_off_chart(curves: Mapping[str, Sequence[Point]]) -> str:
    """Draw charts side by side, each below its title, as one SVG file that needs nothing else.

    Args:
        curves: title -> finite points (x, y), at least one each.
    """
    height = HEIGHT + TITLE_HEIGHT
    parts = "\n".join(
        f'<g transform="translate({number * WIDTH} 0)"><text x="{LEFT}" y="18">{escape(title)}</text>'
        f'<svg y="{TITLE_HEIGHT}" width="{WIDTH}" height="{HEIGHT}">\n{line_chart(title, points)}\n</svg></g>'
        for number, (title, points) in enumerate(curves.items())
    )
    size = f'width="{WIDTH * len(curves)}" height="{height}" viewBox="0 0 {WIDTH * len(curves)} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{STYLE}</style>\n{parts}\n</svg>\n'
