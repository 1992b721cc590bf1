"""Write a table of records as GitHub Markdown, in which nothing in a name can end a cell or format it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hypergen.report.columns import Columns, Records
from hypergen.report.table import cells


def markdown(
    records: Records, columns: Columns, names: Sequence[str] | None = None, with_directions: bool = False
) -> str:
    """Write one row a record; `0.233 [0.200, 0.274]` with an interval, `-` where there is no number.

    Args:
        records: the rows.
        columns: every metric that they may have.
        names: those shown; by default all that a record has.
        with_directions: say beside each head which way is better.

    Raises:
        ValueError: the records have a metric of diversity but no `overlap_mean`.
    """
    heads, *others = cells(records, columns, names, with_directions)
    heads = [head.replace("\n", ", ") for head in heads]
    rows = [[*map(escaped, heads)], *([escaped(name), *numbers] for name, *numbers in others)]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "".join(_row(row, widths) for row in (rows[0], rule, *rows[1:]))


def escaped(text: str) -> str:
    """Escape what could format a text, end a cell or begin a tag."""
    return re.sub(r"([\\`*\[\]<|~&])", r"\\\1", text)


def _row(row: Sequence[str], widths: Sequence[int]) -> str:
    numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
    return f"| {' | '.join((row[0].ljust(widths[0]), *numbers))} |\n"
