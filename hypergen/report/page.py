"""Write the report of a run as one HTML file that needs no network and runs no script.

Every text in it is escaped and stripped of control characters, so that generated text cannot act on the page.
Does not know what a figure shows (a modality gives it as a fragment that is escaped already), or where a number comes
from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from hypergen.report.chart import Point, line_chart
from hypergen.report.columns import Columns, Record, Records, part_of, title_of
from hypergen.report.style import PAGE, STYLE
from hypergen.report.table import INTERVAL_MEANING, NAME_HEAD, interval_text, mean_text
from hypergen.report.trade_off import Place, marks_of, trade_off_chart
from hypergen.report.verdicts import OURS, Verdict, verdicts
from hypergen.runtime.console import sanitize

CURVES = {
    "loss": "training loss",
    "accuracy": "training token accuracy",
    "held_out_loss": "held-out loss",
    "entropy": "entropy",
    "ttr": "TTR",
    "overlap_mean": "overlap mean",
}
INTRODUCTION = (
    "Hyperfitting trains a pretrained next-token model on very few sequences until its training loss is near zero; "
    "what it decodes greedily, which looped before, is then varied. This page compares the model before and after, on "
    "prompts that it was not trained on, and shows how much it quotes."
)
FIGURE_CAPTION = "One row an example: the same beginning, continued by each model and decoding."
SECURITY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

Title = tuple[str, bool]  # of a row or column, escaped, and whether it is ours and stands out


@dataclass(frozen=True, kw_only=True)
class Head:
    """Hold what the top of a report answers: what was done, with which command, and whether it worked."""

    facts: Mapping[str, str] = field(default_factory=dict)
    """Model, data, date, ..., in order."""
    command: str | None = None
    """That makes it again."""
    verdict: Verdict | None = None


def curves(log: Sequence[Mapping[str, float]]) -> dict[str, list[Point]]:
    """Turn rows of `metrics.jsonl` into curves by title, one for each metric of `CURVES` that any row has."""
    titles = {name: title for name, title in CURVES.items() if any(name in row for row in log)}
    return {title: [(row["epoch"], row[name]) for row in log if name in row] for name, title in titles.items()}


def interpolation_curves(records: Records, columns: Columns, rows: Mapping[float, str]) -> dict[str, list[Point]]:
    """Turn the rows on the way from a base (0) to its run (1) into curves by title: loss, repetition, TTR, overlap.

    Args:
        records: of the table.
        columns: every metric that they may have.
        rows: alpha -> name of its row.
    """
    found = {str(record["name"]): record for record in records}
    shown = {alpha: found[row] for alpha, row in rows.items() if row in found}
    names = dict.fromkeys(
        name for name in ("loss", columns.judged(list(shown.values())), "ttr", "overlap_mean") if name
    )
    means = {name: [(alpha, part_of(record, name, "mean")) for alpha, record in shown.items()] for name in names}
    return {
        columns.head(name): points
        for name, pairs in means.items()
        if (points := [(alpha, mean) for alpha, mean in pairs if mean is not None])
    }


def page(
    title: str,
    records: Records,
    columns: Columns,
    *,
    facts: Mapping[str, str | float],
    curves: Mapping[str, Sequence[Point]],
    figure: str | None,
    head: Head | None = None,
    way: Sequence[Place] = (),
    curves_title: str = "Training",
    curves_over: str = "epoch",
) -> str:
    """Write one HTML file.

    Args:
        title: its heading.
        records: rows of the table.
        columns: every metric that they may have.
        facts: what the numbers rest on (base, data, seed, ...), in order.
        curves: title -> [(epoch, value), ...]; points that are not finite are left out.
        figure: an HTML fragment, escaped and complete in itself; None: there is none.
        head: what stands above all else; None: the title alone.
        way: of a training through overlap and diversity (`trade_off.way_of`).
        curves_title: heading of the curves.
        curves_over: what their x axis counts.

    Raises:
        ValueError: the records have a metric of diversity but no `overlap_mean`.
    """
    body = (
        f"<header><h1>{_text(title)}</h1>\n{_head(head) if head else ''}</header>",
        _section("Before and after", _sentences(verdicts(records, columns)) + _results(records, columns)),
        _section("Diversity against quotation", _trade_off(records, way)),
        _section(_text(curves_title), _charts(curves, curves_over)),
        _section("Side by side", _figure(figure) if figure else ""),
        _section("How it was made", _definitions(facts.items())),
        f"<footer>{_section('What the numbers mean', _definitions(_meanings(records, columns)))}</footer>",
    )
    return PAGE.format(title=_text(title), security=SECURITY, style=STYLE, body="\n".join(filter(None, body)))


# The parts of the page.


def _text(value: object) -> str:
    return escape(sanitize(str(value)))


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>" if content else ""


def _head(head: Head) -> str:
    """Write introduction, verdict, facts and command."""
    pairs = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>\n" for name, value in head.facts.items())
    parts = [f"<p>{INTRODUCTION}</p>"]
    if head.verdict is not None:
        kind = head.verdict.outcome.replace(" ", "-")
        sentences = "<br>\n".join(map(_text, head.verdict.sentences))
        parts.append(f'<p class="verdict {kind}">{sentences}</p>')
    parts += [f'<dl class="head">\n{pairs}</dl>'] * bool(pairs)
    if head.command is not None:
        parts.append(f'<pre class="command">{_text(head.command)}</pre>')
    return "\n".join(parts)


def _trade_off(records: Records, way: Sequence[Place]) -> str:
    """Draw TTR against overlap, with a legend; nothing where there is nothing to compare."""
    marks = marks_of(records)
    if len(marks) < 2:
        return ""
    legend = [mark.legend for mark in marks] + ["dots: epochs, measured on the first prompts"] * bool(way)
    items = "".join(f"<li>{_text(line)}</li>\n" for line in legend)
    caption = "<figcaption>Up is more varied, right quotes longer runs of the training set: best is the upper left."
    chart = trade_off_chart("; ".join(legend), marks, way)
    return f'<figure>\n{caption}</figcaption>\n{chart}\n<ul class="legend">\n{items}</ul>\n</figure>'


def _scroll(label: str, content: str) -> str:
    return f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">\n{content}\n</div>'


def _results(records: Records, columns: Columns) -> str:
    """Draw the table that fits a screen, a row a record; below it, folded, all metrics, a row each."""
    names, few = columns.names(records), columns.brief(records, first=columns.summary(records))
    titles = [(_text(title_of(record)), record["name"] == OURS) for record in records]
    heads = {name: (_column_head(name, columns), False) for name in names}
    rows = [[_result(record, name, columns) for name in few] for record in records]
    table = _scroll("Before and after", _table(NAME_HEAD, [heads[name] for name in few], titles, rows))
    if len(few) == len(names):
        return table
    rows = [[_result(record, name, columns) for record in records] for name in names]
    whole = _table("measure", titles, list(heads.values()), rows)
    return f"{table}\n<details>\n<summary>All measures</summary>\n{_scroll('All measures', whole)}\n</details>"


def _column_head(name: str, columns: Columns) -> str:
    """Write the head of a column, its meaning at hand, and which way is better."""
    head, meaning, way = _text(columns.head(name)), _text(columns.metric(name).meaning), columns.direction(name)
    shown = f'<abbr title="{meaning}">{head}</abbr>' if meaning else head
    return shown + (f" <small>{way}</small>" if way else "")


def _table(corner: str, heads: Sequence[Title], titles: Sequence[Title], rows: Sequence[Sequence[str]]) -> str:
    """Draw cells, escaped already, below the heads of their columns and beside the titles of their rows."""
    first = "".join(f'<th scope="col"{_mark(ours)}>{head}</th>' for head, ours in ((corner, False), *heads))
    lines = "\n".join(
        f'<tr{_mark(own)}><th scope="row">{title}</th>'
        + "".join(f"<td{_mark(ours)}>{cell}</td>" for cell, (_, ours) in zip(row, heads, strict=True))
        + "</tr>"
        for row, (title, own) in zip(rows, titles, strict=True)
    )
    return f'<table class="results">\n<thead><tr>{first}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>'


def _mark(is_ours: bool) -> str:
    return ' class="ours"' if is_ours else ""


def _result(record: Record, name: str, columns: Columns) -> str:
    interval = interval_text(record, name, columns)
    return mean_text(record, name, columns) + (f" <small>{interval}</small>" if interval else "")


def _sentences(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{_text(sentence)}</li>\n" for sentence in sentences)
    return f"<ul>\n{items}</ul>\n" if items else ""


def _charts(curves: Mapping[str, Sequence[Point]], over: str) -> str:
    finite = {name: [point for point in points if all(map(math.isfinite, point))] for name, points in curves.items()}
    span = [x for points in finite.values() for x, _ in points]  # one for all, so that curves can be compared
    ends = (min(span), max(span)) if span else (0.0, 0.0)
    charts = [_chart(sanitize(name), points, ends, over) for name, points in finite.items() if points]
    return f'<div class="charts">\n{"".join(charts)}</div>' if charts else ""


def _chart(name: str, points: Sequence[Point], span: Point, over: str) -> str:
    (first, begin), (last, end) = points[0], points[-1]
    title = f"{name}: {begin:.3f} at {over} {first:g}, {end:.3f} at {over} {last:g}"
    svg = line_chart(title, points, x_label=over, span=span)
    change = f"{begin:.3f} to {end:.3f}" if len(points) > 1 else f"{end:.3f}"
    return f"<figure>\n<figcaption><b>{escape(name)}</b> {change}</figcaption>\n{svg}\n</figure>\n"


def _figure(fragment: str) -> str:
    content = _scroll("Side by side", fragment)
    return f"<figure>\n<figcaption>{FIGURE_CAPTION}</figcaption>\n{content}\n</figure>"


def _meanings(records: Records, columns: Columns) -> list[tuple[str, str]]:
    """Explain the metrics shown, and the interval where there is one."""
    names = columns.names(records)
    has_interval = any(interval_text(record, name, columns) for record in records for name in names)
    return columns.meanings(records) + [("[low, high]", INTERVAL_MEANING)] * has_interval


def _definitions(pairs: Iterable[tuple[str, str | float]]) -> str:
    shown = ((name, f"{value:.6g}" if isinstance(value, float) else value) for name, value in pairs)
    rows = "\n".join(f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>' for name, value in shown)
    return f'<table class="facts">\n<tbody>\n{rows}\n</tbody>\n</table>' if rows else ""
