"""Render every cell of a table as text, once for Markdown, terminal and page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hypergen.modality import Metric
from hypergen.report.columns import Columns, Record, Records, part_of, title_of
from hypergen.runtime.console import sanitize

NAME_HEAD = "model and decoding"
MISSING = "-"
INTERVAL_MEANING = "95 % bootstrap interval of the mean over prompts; without width where all prompts gave the same"


def mean_text(record: Record, name: str, columns: Columns) -> str:
    """Render a mean: `0.233`, or `-` where there is no number."""
    mean = part_of(record, name, "mean")
    return MISSING if mean is None else _number(mean, columns.metric(name))


def interval_text(record: Record, name: str, columns: Columns) -> str:
    """Render an interval: `[0.200, 0.274]`, or nothing where there is none."""
    low, high = part_of(record, name, "low"), part_of(record, name, "high")
    if low is None or high is None or part_of(record, name, "mean") is None:
        return ""
    metric = columns.metric(name)
    return f"[{_number(low, metric)}, {_number(high, metric)}]"


def cells(
    records: Records, columns: Columns, names: Sequence[str] | None = None, with_directions: bool = False
) -> list[list[str]]:
    """Render the whole table: the row of heads, then one row a record; a record's title comes first.

    Args:
        records: the rows.
        columns: every metric that they may have.
        names: those shown; by default all that a record has.
        with_directions: say below each head which way is better.

    Raises:
        ValueError: the records have a metric of diversity but no `overlap_mean`.
    """
    names = columns.names(records, names)
    directions = [f"\n{way}" if (way := columns.direction(name)) and with_directions else "" for name in names]
    heads = [NAME_HEAD, *(columns.head(name) + way for name, way in zip(names, directions, strict=True))]
    rows = [[sanitize(title_of(record)), *(_cell(record, name, columns) for name in names)] for record in records]
    return [heads, *rows]


def _cell(record: Record, name: str, columns: Columns) -> str:
    return f"{mean_text(record, name, columns)} {interval_text(record, name, columns)}".rstrip()


def _number(value: float, metric: Metric) -> str:
    if math.isinf(value) or abs(value) >= 1e12:
        return f"{value:.3g}"
    is_count = metric.is_count and float(value).is_integer()
    if is_count or isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:z.{metric.decimals}f}"
