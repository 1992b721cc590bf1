"""Which columns a table of records has and what each cell says; Markdown, terminal and page show the same.

The one place where a measure gets its head and its meaning, and where the rule lives that diversity is never shown
without overlap. Imports only the standard library.
Does not know: how a table is drawn, or how a number was measured.

A record is one row: {"name": "base greedy", "values": {"ttr": {"mean": 0.2, "low": 0.1, "high": 0.3}, ...}}. `low` and
`high`, a 95 % bootstrap interval, may be missing; a value may be absent or nan.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Records = Sequence[Mapping[str, Any]]

NAME_HEAD = "model and decoding"
MISSING = "-"
INTERVAL_MEANING = "95 % bootstrap interval of the mean"
DROPPED = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufffe\uffff")  # reorder text, or break XML


class Measure(NamedTuple):
    head: str
    meaning: str
    is_count: bool = False


MEASURES: dict[str, Measure] = {
    # Every known name, in the order of the columns; the definitions are those of `measures` and `citation`.
    "ttr": Measure("TTR", "different tokens / tokens, over the last 96 tokens of a completion"),
    "overlap_mean": Measure(
        "overlap mean", "longest run of tokens shared with the training set, mean over completions"
    ),
    "overlap_max": Measure("overlap max", "the longest such run of any completion, in tokens", is_count=True),
    "overlap_over_10": Measure("overlap > 10", "share of completions with such a run of more than 10 tokens"),
    "mattr": Measure("MATTR", "different tokens / tokens, mean over all windows of 50 tokens"),
    **{f"rep_{n}": Measure(f"rep-{n}", f"share of {n}-token runs that repeat within a completion") for n in (2, 3, 4)},
    **{
        f"distinct_{n}": Measure(f"distinct-{n}", f"different {what} / {what}, over all completions together")
        for n, what in enumerate(("tokens", "2-token runs", "3-token runs", "4-token runs"), 1)
    },
    "rows_copied": Measure("rows copied", "share of completed rows that equal the row above"),
    "train_loss": Measure("training loss", "mean cross-entropy on the training sequences, nats per token"),
    "loss": Measure("held-out loss", "mean cross-entropy on sequences never trained on, nats per token"),
    "perplexity": Measure("perplexity", "exp(held-out loss)"),
    "entropy": Measure("entropy", "of the predicted next-token distributions, nats; low is sure"),
    "top1_probability": Measure("top-1", "mean probability of the most likely token"),
    "top3_probability": Measure("top-3", "mean probability of the 3 most likely tokens together"),
    "top5_probability": Measure("top-5", "mean probability of the 5 most likely tokens together"),
}


DETAILS = frozenset({"rep_2", "rep_3", "top3_probability", "top5_probability"})  # on the page, not on a terminal


def brief(records: Records) -> list[str]:
    """The columns that a terminal shows: all but the details."""
    return [name for name in columns_of(records) if name not in DETAILS]


def printable(text: str) -> str:
    """One line of text: white space made plain, control characters and direction controls dropped."""
    return "".join(character for character in " ".join(text.split()) if _is_printable(character))


def head(name: str) -> str:
    return MEASURES[name].head if name in MEASURES else printable(name.replace("_", " "))


def columns_of(records: Records, columns: Sequence[str] | None = None) -> list[str]:
    """The given columns, or all that a record has: known ones in the order of `MEASURES`, then the others.

    Raises:
        ValueError: `ttr` was measured and `overlap_mean` was not.
    """
    present = dict.fromkeys(name for record in records for name in record["values"])
    if columns is None:
        columns = [name for name in MEASURES if name in present] + [name for name in present if name not in MEASURES]
    chosen = list(dict.fromkeys(columns))
    return _overlap_beside_ttr(chosen, records) if "ttr" in chosen else chosen


def mean_text(record: Mapping[str, Any], name: str) -> str:
    """`0.233`, or `-` where there is no number."""
    mean = _part(record, name, "mean")
    return MISSING if mean is None else _number(mean, name, decimals=3)


def interval_text(record: Mapping[str, Any], name: str) -> str:
    """`[0.20, 0.27]`, or nothing where there is no interval."""
    low, high = _part(record, name, "low"), _part(record, name, "high")
    if low is None or high is None or _part(record, name, "mean") is None:
        return ""
    return f"[{_number(low, name, decimals=2)}, {_number(high, name, decimals=2)}]"


def cells(records: Records, columns: Sequence[str] | None = None) -> list[list[str]]:
    """The whole table as text: the row of heads, then one row a record; a record's name comes first."""
    names = columns_of(records, columns)
    rows = [[_cell(record, name) for name in names] for record in records]
    titles = [printable(str(record["name"])) for record in records]
    return [[NAME_HEAD, *map(head, names)], *([title, *row] for title, row in zip(titles, rows, strict=True))]


def _cell(record: Mapping[str, Any], name: str) -> str:
    return f"{mean_text(record, name)} {interval_text(record, name)}".rstrip()


def _overlap_beside_ttr(chosen: list[str], records: Records) -> list[str]:
    if _is_measured(records, "ttr") and not _is_measured(records, "overlap_mean"):
        raise ValueError("records have ttr but no overlap_mean: diversity is never shown without overlap")
    overlaps = [name for name in chosen if name.startswith("overlap_")]
    if "overlap_mean" not in overlaps:
        overlaps.insert(0, "overlap_mean")
    others = [name for name in chosen if name not in overlaps]
    after = others.index("ttr") + 1
    return others[:after] + overlaps + others[after:]


def _is_measured(records: Records, name: str) -> bool:
    return any(_part(record, name, "mean") is not None for record in records)


def _part(record: Mapping[str, Any], name: str, part: str) -> float | None:
    value = (record["values"].get(name) or {}).get(part)
    return None if value is None or math.isnan(value) else value


def _number(value: float, name: str, decimals: int) -> str:
    if math.isinf(value) or abs(value) >= 1e12:
        return f"{value:.3g}"
    is_count = name in MEASURES and MEASURES[name].is_count and float(value).is_integer()
    if is_count or isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:z.{decimals}f}"


def _is_printable(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cs") and character not in DROPPED
