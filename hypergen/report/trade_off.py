"""Draw the trade-off of a training as SVG: diversity against quotation, a dot an epoch, rows of the table as marks.

The two grow together, so a curve of each hides what a model that quotes has won. Coloured by the style sheet around it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import ascii_uppercase

from hypergen.report.chart import BOTTOM, LEFT, RIGHT, TOP, ticks, x_tick, y_tick
from hypergen.report.columns import Records, part_of, title_of
from hypergen.report.verdicts import BASE_GREEDY, BASE_TOP_P, ORIGINAL, OURS
from hypergen.runtime.console import sanitize

WIDTH, HEIGHT = 480, 320  # units of the view box; the page scales it
SQUARE = 16  # side of a mark
MARKED = (BASE_GREEDY, BASE_TOP_P, OURS, ORIGINAL)  # more would hide each other

Place = tuple[float, float, float]  # overlap, diversity, epoch


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Hold a row of the table in the trade-off."""

    letter: str
    """Shown in its square; a legend says what it stands for."""
    title: str
    overlap: float
    diversity: float
    is_ours: bool = False

    @property
    def legend(self) -> str:
        """What the letter stands for, in numbers, too."""
        return f"{self.letter} {self.title}: TTR {self.diversity:.3f}, overlap {self.overlap:.2f}"


def way_of(log: Sequence[Mapping[str, float]]) -> list[Place]:
    """Turn rows of `metrics.jsonl` into the way of a training: a place each epoch that was measured, if finite."""
    measured = [row for row in log if {"overlap_mean", "ttr"} <= row.keys()]
    places = [(row["overlap_mean"], row["ttr"], row["epoch"]) for row in measured]
    return [place for place in places if all(map(math.isfinite, place))]


def marks_of(records: Records) -> list[Mark]:
    """Turn the rows of `MARKED` that have both numbers into marks, in the order of the table."""
    shown = [
        (record, overlap, diversity)
        for record in records
        if record["name"] in MARKED
        and (overlap := part_of(record, "overlap_mean", "mean")) is not None
        and (diversity := part_of(record, "ttr", "mean")) is not None
    ]
    return [
        Mark(
            letter=letter,
            title=sanitize(title_of(record)),
            overlap=overlap,
            diversity=diversity,
            is_ours=record["name"] == OURS,
        )
        for letter, (record, overlap, diversity) in zip(ascii_uppercase, shown, strict=False)
    ]


def trade_off_chart(title: str, marks: Sequence[Mark], way: Sequence[Place] = ()) -> str:
    """Draw diversity over overlap -> `<svg>`: a dot an epoch along the way of a training, and rows of a table as marks.

    Args:
        title: read out by screen readers.
        marks: finite, at least one.
        way: (overlap, diversity, epoch) in the order of the training, finite; the first and the last are numbered.
    """
    xs = [mark.overlap for mark in marks] + [x for x, _, _ in way]
    ys = [mark.diversity for mark in marks] + [y for _, y, _ in way]
    x_ticks, y_ticks = ticks(min(xs), max(xs), reach=True), ticks(min(0.0, *ys), max(ys), reach=True)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def across(x: float) -> float:
        return LEFT + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0] or 1) * (right - LEFT)

    def down(y: float) -> float:
        return bottom - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0] or 1) * (bottom - TOP)

    dots = [(across(x), down(y), epoch) for x, y, epoch in way]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in dots)
    return "\n".join(
        (
            f'<svg class="chart wide" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            f"<title>{escape(title)}</title>",
            *(y_tick(down(tick), tick, right) for tick in y_ticks),
            *(x_tick(across(tick), tick, bottom) for tick in x_ticks),
            f'<text class="label" x="{LEFT}" y="{HEIGHT - 4}">up: TTR</text>',
            f'<text class="label" x="{right}" y="{HEIGHT - 4}" text-anchor="end">right: overlap mean, tokens</text>',
            f'<polyline class="line" points="{path}"/>',
            *(f'<circle class="end" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y, _ in dots),
            *(_epoch(x, y, epoch) for x, y, epoch in dict.fromkeys((*dots[:1], *dots[-1:]))),
            *(_mark(across(mark.overlap), down(mark.diversity), mark) for mark in marks),
            "</svg>",
        )
    )


def _epoch(x: float, y: float, epoch: float) -> str:
    return f'<text class="label" x="{x - 8:.1f}" y="{y + 16:.1f}" text-anchor="end">epoch {epoch:g}</text>'


def _mark(x: float, y: float, mark: Mark) -> str:
    """Draw a square with its letter."""
    kind, corner = "mark ours" if mark.is_ours else "mark", f'x="{x - SQUARE / 2:.1f}" y="{y - SQUARE / 2:.1f}"'
    square = f'<rect class="{kind}" {corner} width="{SQUARE}" height="{SQUARE}" rx="3"/>'
    return f'{square}<text class="letter" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{escape(mark.letter)}</text>'
