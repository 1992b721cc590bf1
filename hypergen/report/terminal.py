"""Print a table of records in the form that fits the terminal; rich is imported only where there is one to draw on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hypergen.report.columns import Columns, Records
from hypergen.report.markdown import markdown
from hypergen.report.table import cells

if TYPE_CHECKING:
    from rich.table import Table


def terminal(records: Records, columns: Columns, names: Sequence[str] | None = None) -> None:
    """Print the table: drawn by rich on a terminal, transposed where it is too wide; as Markdown elsewhere.

    Raises:
        ValueError: the records have a metric of diversity but no `overlap_mean`.
    """
    if not sys.stdout.isatty():
        print(markdown(records, columns, names), end="")
        return
    from rich.console import Console

    console, rows = Console(), cells(records, columns, names)
    transposed = list(zip(*rows, strict=True))
    for form in (rows, transposed, _with_intervals_below(transposed)):
        table = _rich_table(form)
        if console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width:
            break
    console.print(table)


def _with_intervals_below(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    names, *others = rows
    return [list(names), *([title, *(cell.replace(" [", "\n[") for cell in row)] for title, *row in others)]


def _rich_table(rows: Sequence[Sequence[str]]) -> Table:
    """Draw rows of plain `Text`, in which markup means nothing; the first row holds the heads."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for number, title in enumerate(rows[0]):
        table.add_column(Text(title), justify="right" if number else "left")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table
