"""Print a table of records in the form that fits the terminal; rich is imported only where there is one to draw on."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hypergen.report.columns import Columns, Records
from hypergen.report.markdown import markdown
from hypergen.report.table import cells
from hypergen.runtime.console import sanitize_block

if TYPE_CHECKING:
    from rich.table import Table


def terminal(
    records: Records, columns: Columns, names: Sequence[str] | None = None, with_directions: bool = False
) -> None:
    """Print the table: drawn by rich on a terminal, transposed where it is too wide; as Markdown elsewhere.

    Args:
        records: the rows.
        columns: every metric that they may have.
        names: those shown; by default all that a record has.
        with_directions: say beside each head which way is better.

    Raises:
        ValueError: the records have a metric of diversity but no `overlap_mean`.
    """
    if not sys.stdout.isatty():
        print(markdown(records, columns, names, with_directions), end="")
        return
    from rich.console import Console

    console, rows = Console(), cells(records, columns, names, with_directions)
    transposed = list(zip(*rows, strict=True))
    for form in (rows, transposed, _with_intervals_below(transposed)):
        table = _rich_table(form)
        if console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width:
            break
    console.print(table)


def passage(label: str, stretches: Sequence[Sequence[Any]]) -> None:
    """Print a text beside its label.

    Args:
        label: 7 characters, at most.
        stretches: of the text, each with whether it is marked: in brackets, and coloured on a terminal.
    """
    parts = [(_bracketed(str(text)) if is_marked else _spaced(str(text)), is_marked) for text, is_marked in stretches]
    if not sys.stdout.isatty():
        print(f"{label:<8}{''.join(text for text, _ in parts).strip()}")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column(min_width=7)
    grid.add_row(Text(label, style="bold"), Text.assemble(*((text, "yellow" if mark else "") for text, mark in parts)))
    Console().print(grid)


def _bracketed(text: str) -> str:
    """Put brackets around a text, inside the white space that surrounds it."""
    shown = _spaced(text)
    body = shown.strip()
    return shown.replace(body, f"[{body}]") if body else shown


def _spaced(text: str) -> str:
    """Make one line of a part of a text: each stretch of white space one space, also at its ends."""
    return re.sub(r"\s+", " ", sanitize_block(text))


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
