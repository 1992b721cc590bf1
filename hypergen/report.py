"""Before and after, to look at: a Markdown table, a terminal table, and one self-contained HTML page.

The page needs no network and runs no script; every text in it is escaped and stripped of control characters. The
figure is the modality's own: an HTML fragment that is escaped already, or a PNG.
Does not know: torch, tokens, text, pictures, where a number comes from. Imports only the standard library (and rich,
once a terminal is there to draw on).
"""

from __future__ import annotations

import math
import re
import sys
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from hypergen.report_chart import Point, line_chart
from hypergen.report_style import PAGE, STYLE
from hypergen.report_table import (
    INTERVAL_MEANING,
    MEASURES,
    NAME_HEAD,
    Records,
    cells,
    columns_of,
    head,
    interval_text,
    mean_text,
    printable,
)
from hypergen.report_table import (
    brief as brief,
)

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CURVES = {
    "loss": "training loss",
    "held_out_loss": "held-out loss",
    "entropy": "entropy",
    "ttr": "TTR",
    "overlap_mean": "overlap mean",
}
OURS, OTHERS = "hyperfitted greedy", ("base greedy", "base top-p")
JUDGED = ("rows_copied", "rep_4")  # what a verdict is about: the first of them that was measured
SHOWN_WIDTH = 760  # pixels up to which a small picture is enlarged by a whole factor
SECURITY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def markdown(records: Records, columns: Sequence[str] | None = None) -> str:
    """A GitHub table, one row a record; `0.233 [0.200, 0.274]` with an interval, `-` where there is no number.

    Raises:
        ValueError: the records have `ttr` but no `overlap_mean`.
    """
    heads, *others = cells(records, columns)
    rows = [[*map(_markdown_escape, heads)], *([_markdown_escape(name), *numbers] for name, *numbers in others)]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "".join(_markdown_row(row, widths) for row in (rows[0], rule, *rows[1:]))


def terminal(records: Records, columns: Sequence[str] | None = None) -> None:
    """Print the table: drawn by rich on a terminal, on its side where it is too wide; as Markdown elsewhere."""
    if not sys.stdout.isatty():
        print(markdown(records, columns), end="")
        return
    from rich.console import Console

    console, rows = Console(), cells(records, columns)
    on_its_side = list(zip(*rows, strict=True))
    for form in (rows, on_its_side, _with_intervals_below(on_its_side)):
        table = _rich_table(form)
        if console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width:
            break
    console.print(table)


def curves(log: Sequence[Mapping[str, float]]) -> dict[str, list[Point]]:
    """The rows of `metrics.jsonl` -> a curve by title, for each number that a training or a look at it has left."""
    titles = {name: title for name, title in CURVES.items() if any(name in row for row in log)}
    return {title: [(row["epoch"], row[name]) for row in log if name in row] for name, title in titles.items()}


def verdicts(records: Records) -> list[str]:
    """Whether the intervals of hyperfitted greedy overlap with those of base greedy and base top-p, a sentence each; on
    the share of copied rows where there is one (pictures), else on rep-4. Nothing where a row or interval is missing.
    """
    rows, measure = {str(record["name"]): record for record in records}, judged(records)
    if OURS not in rows or measure is None:
        return []
    return [_verdict(measure, rows[OURS], rows[other]) for other in OTHERS if _can_judge(measure, rows, other)]


def judged(records: Records) -> str | None:
    """The measure that a verdict is about: the first of `JUDGED` that every record has."""
    measured = [name for name in JUDGED if all(name in record["values"] for record in records)]
    return measured[0] if measured else None


def _can_judge(measure: str, rows: Mapping[str, Any], other: str) -> bool:
    return all(name in rows and interval_text(rows[name], measure) for name in (OURS, other))


def _verdict(measure: str, ours: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    own, theirs = ours["values"][measure], other["values"][measure]
    named = (f"{one['name']} {mean_text(one, measure)} {interval_text(one, measure)}" for one in (ours, other))
    both = " and ".join(named)
    if own["low"] <= theirs["high"] and theirs["low"] <= own["high"]:
        return f"{head(measure)}: {both}: the 95 % intervals overlap, so a difference is not shown."
    side = "lower" if own["mean"] < theirs["mean"] else "higher"
    return f"{head(measure)}: {both}: {side}, and the 95 % intervals do not overlap."


def page(
    title: str,
    records: Records,
    facts: Mapping[str, str | float],
    curves: Mapping[str, Sequence[Point]],
    figure: str | bytes | None,
) -> str:
    """One HTML file.

    Args:
        facts: what the numbers rest on (base, data, seed, ...), in order.
        curves: title -> [(epoch, value), ...]; points that are not finite are left out.
        figure: an HTML fragment that is escaped already, the bytes of a PNG, or nothing.

    Raises:
        ValueError: the records have `ttr` but no `overlap_mean`, or the figure's bytes are no PNG.
    """
    body = (
        f"<header><h1>{_text(title)}</h1></header>",
        _section("Before and after", _sentences(verdicts(records)) + _results(records)),
        _section("Training", _charts(curves)),
        _section("Side by side", _figure(figure)),
        _section("How it was made", _definitions(facts.items())),
        f"<footer>{_section('What the numbers mean', _definitions(_meanings(records)))}</footer>",
    )
    return PAGE.format(title=_text(title), security=SECURITY, style=STYLE, body="\n".join(filter(None, body)))


# Markdown and terminal.


def _markdown_escape(text: str) -> str:
    return re.sub(r"([\\`*\[\]<|~&])", r"\\\1", text)  # nothing in a name may end the cell or format it


def _markdown_row(row: Sequence[str], widths: Sequence[int]) -> str:
    numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
    return f"| {' | '.join((row[0].ljust(widths[0]), *numbers))} |\n"


def _with_intervals_below(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    names, *others = rows
    return [list(names), *([title, *(cell.replace(" [", "\n[") for cell in row)] for title, *row in others)]


def _rich_table(rows: Sequence[Sequence[str]]) -> Any:
    """A `rich.table.Table` of plain `Text`, in which markup means nothing; the first row holds the heads."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for number, title in enumerate(rows[0]):
        table.add_column(Text(title), justify="right" if number else "left")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table


# The parts of the page.


def _text(value: object) -> str:
    return escape(printable(str(value)))


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>" if content else ""


def _scroll(label: str, content: str) -> str:
    return f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">\n{content}\n</div>'


def _results(records: Records) -> str:
    """The table that fits a screen, a row a record; below it, folded, all measures, a row each."""
    names, few = columns_of(records), brief(records)
    titles = [(_text(record["name"]), record["name"] == OURS) for record in records]
    rows = [[_result(record, name) for name in few] for record in records]
    table = _scroll("Before and after", _table(NAME_HEAD, [(_text(head(name)), False) for name in few], titles, rows))
    if len(few) == len(names):
        return table
    rows = [[_result(record, name) for record in records] for name in names]
    whole = _table("measure", titles, [(_text(head(name)), False) for name in names], rows)
    return f"{table}\n<details>\n<summary>All measures</summary>\n{_scroll('All measures', whole)}\n</details>"


def _table(
    corner: str, heads: Sequence[tuple[str, bool]], titles: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]]
) -> str:
    """Heads and titles come with whether their column or row stands out; everything is escaped already."""
    first = "".join(f'<th scope="col"{_mark(own)}>{title}</th>' for title, own in ((corner, False), *heads))
    lines = "\n".join(
        f'<tr{_mark(own)}><th scope="row">{title}</th>'
        + "".join(f"<td{_mark(ours)}>{cell}</td>" for cell, (_, ours) in zip(row, heads, strict=True))
        + "</tr>"
        for row, (title, own) in zip(rows, titles, strict=True)
    )
    return f'<table class="results">\n<thead><tr>{first}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>'


def _mark(is_ours: bool) -> str:
    return ' class="ours"' if is_ours else ""


def _result(record: Mapping[str, Any], name: str) -> str:
    interval = interval_text(record, name)
    return mean_text(record, name) + (f" <small>{interval}</small>" if interval else "")


def _sentences(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{_text(sentence)}</li>\n" for sentence in sentences)
    return f"<ul>\n{items}</ul>\n" if items else ""


def _charts(curves: Mapping[str, Sequence[Point]]) -> str:
    finite = {name: [point for point in points if all(map(math.isfinite, point))] for name, points in curves.items()}
    span = [x for points in finite.values() for x, _ in points]  # one for all, so that curves can be compared
    charts = [_chart(printable(name), points, (min(span), max(span))) for name, points in finite.items() if points]
    return f'<div class="charts">\n{"".join(charts)}</div>' if charts else ""


def _chart(name: str, points: Sequence[Point], span: Point) -> str:
    (first, begin), (last, end) = points[0], points[-1]
    svg = line_chart(f"{name}: {begin:.3f} at epoch {first:g}, {end:.3f} at epoch {last:g}", points, span=span)
    change = f"{begin:.3f} to {end:.3f}" if len(points) > 1 else f"{end:.3f}"
    return f"<figure>\n<figcaption><b>{escape(name)}</b> {change}</figcaption>\n{svg}\n</figure>\n"


def _figure(figure: str | bytes | None) -> str:
    if not figure:
        return ""
    caption = "One row an example: the same beginning, continued by each model and decoding."
    content = _picture(figure) if isinstance(figure, bytes) else _scroll("Side by side", figure)
    return f"<figure>\n<figcaption>{caption}</figcaption>\n{content}\n</figure>"


def _picture(png: bytes) -> str:
    """An `<img>` with the PNG inside, enlarged by a whole factor where it is small."""
    if not png.startswith(PNG_SIGNATURE) or len(png) < 24:
        raise ValueError("the figure's bytes are no PNG")
    width, height = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
    factor = max(1, SHOWN_WIDTH // max(width, 1))
    size = f'width="{factor * width}" height="{factor * height}"'
    return f'<img {size} alt="Completions side by side" src="data:image/png;base64,{b64encode(png).decode()}">'


def _meanings(records: Records) -> list[tuple[str, str]]:
    """What the measures shown mean, and the interval where there is one."""
    names = columns_of(records)
    meanings = [(MEASURES[name].head, MEASURES[name].meaning) for name in names if name in MEASURES]
    has_interval = any(interval_text(record, name) for record in records for name in names)
    return meanings + [("[low, high]", INTERVAL_MEANING)] * has_interval


def _definitions(pairs: Iterable[tuple[str, str | float]]) -> str:
    shown = ((name, f"{value:.6g}" if isinstance(value, float) else value) for name, value in pairs)
    rows = "\n".join(f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>' for name, value in shown)
    return f'<table class="facts">\n<tbody>\n{rows}\n</tbody>\n</table>' if rows else ""
