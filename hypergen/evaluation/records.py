"""Hold the rows of a table as a list that shows itself: short in a console, a table in a notebook, flat in pandas."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from hypergen.report.columns import Columns
from hypergen.report.table import cells
from hypergen.runtime.dependencies import load_optional

PANDAS = "pandas>=2"

Record = dict[str, Any]


class Records(list[Record]):
    """Hold one record a row, `{"name": ..., "values": {metric: {"mean", "low", "high"}}}`: a list that shows itself."""

    def __init__(self, records: Iterable[Record] = (), columns: Columns | None = None):
        super().__init__(records)
        self.columns = Columns.of() if columns is None else columns

    def __repr__(self) -> str:
        return f"<{len(self)} records: {', '.join(str(record['name']) for record in self)}>"

    def _repr_html_(self) -> str:
        """Draw the columns that fit a screen."""
        heads, *rows = cells(self, self.columns, self.columns.brief(self))
        head = "".join(f"<th>{escape(text)}</th>" for text in heads)
        lines = "\n".join(f"<tr><th>{escape(name)}</th>{_cells(others)}</tr>" for name, *others in rows)
        return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>"

    def to_dataframe(self) -> Any:
        """Make a pandas DataFrame: a row a record, under its name; `ttr`, `ttr_low`, `ttr_high`, ... are columns.

        Raises:
            InputError: pandas is not installed.
        """
        pandas = load_optional("pandas", PANDAS, "to_dataframe")
        rows = [_flat(record["values"]) for record in self]
        return pandas.DataFrame(rows, index=pandas.Index([record["name"] for record in self], name="name"))


def _cells(texts: Iterable[str]) -> str:
    return "".join(f"<td>{escape(text)}</td>" for text in texts)


def _flat(values: dict[str, dict[str, float]]) -> dict[str, float]:
    """Flatten the metrics of a record: the mean under the metric's name, the interval beside it."""
    numbers = ((name, part, number) for name, parts in values.items() for part, number in parts.items())
    return {name if part == "mean" else f"{name}_{part}": number for name, part, number in numbers}
