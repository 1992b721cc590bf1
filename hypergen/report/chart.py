"""Draw a small line chart as inline SVG, coloured by the style sheet of the page around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 360, 200  # units of the view box; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 10, 36  # margins around the plotted area
MOST_STEPS = 5  # between the first and the last tick of an axis


Point = tuple[float, float]


def line_chart(title: str, points: Sequence[Point], x_label: str = "epoch", span: Point | None = None) -> str:
    """Draw a curve -> `<svg>`; the y axis includes 0.

    Args:
        title: read out by screen readers.
        points: finite (x, y), at least one, joined in the order given.
        x_label: what the x axis counts.
        span: the ends of the x axis; by default those of the points.
    """
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_low, x_high = span or (min(xs), max(xs))
    x_ticks = ticks(x_low, x_high, least_step=1.0 if all(float(x).is_integer() for x in xs) else 0.0)
    y_ticks = ticks(min(0.0, *ys), max(0.0, *ys), reach=True)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def across(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low or 1) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low or 1) * (HEIGHT - TOP - BOTTOM)

    path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in points)
    return "\n".join(
        (
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            f"<title>{escape(title)}</title>",
            *(y_tick(down(tick), tick) for tick in y_ticks),
            *(x_tick(across(tick), tick) for tick in x_ticks),
            f'<text class="label" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>',
            f'<polyline class="line" points="{path}"/>',
            f'<circle class="end" cx="{across(xs[-1]):.1f}" cy="{down(ys[-1]):.1f}" r="3.5"/>',
            "</svg>",
        )
    )


def ticks(low: float, high: float, least_step: float = 0.0, reach: bool = False) -> list[float]:
    """Choose round ticks: multiples of 1, 2 or 5 times a power of ten, at most `MOST_STEPS` steps.

    Args:
        low: lower end of the axis.
        high: upper end.
        least_step: smallest distance of two ticks.
        reach: go on to the first ticks that lie around both ends; by default all lie between them.
    """
    span = high - low
    if not 1e-300 < span < 1e300:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / MOST_STEPS))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * MOST_STEPS >= span * 0.999)
    step = max(step, least_step)
    inner = (math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9))
    outer = (math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9))
    first, last = outer if reach else inner
    return [number * step for number in range(first, last + 1)]


def y_tick(y: float, value: float, right: float = WIDTH - RIGHT) -> str:
    """Draw a line across the chart, to `right`, and its number."""
    line = f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
    return f'{line}<text class="label" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'


def x_tick(x: float, value: float, bottom: float = HEIGHT - BOTTOM) -> str:
    """Draw a number below the x axis, which lies at `bottom`."""
    return f'<text class="label" x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{value:g}</text>'
