"""Say in sentences whether the intervals of hyperfitted greedy overlap with those of the base.

An adapter may mark the metric that they are about among its own; else it is the core's.
"""

from __future__ import annotations

from collections.abc import Mapping

from hypergen.report.columns import Columns, Record, Records
from hypergen.report.table import interval_text, mean_text

OURS = "hyperfitted greedy"  # names of rows, which `evaluation.baselines` takes from here
BASE_GREEDY, BASE_TOP_P = OTHERS = "base greedy", "base top-p"


def verdicts(records: Records, columns: Columns) -> list[str]:
    """Compare hyperfitted greedy with base greedy and base top-p, a sentence each, on the metric of `judged`.

    Nothing is said where a row or an interval is missing.
    """
    rows, name = {str(record["name"]): record for record in records}, judged(records, columns)
    if OURS not in rows or name is None:
        return []
    others = [other for other in OTHERS if _can_judge(rows, other, name, columns)]
    return [_verdict(rows[OURS], rows[other], name, columns) for other in others]


def judged(records: Records, columns: Columns) -> str | None:
    """Choose the metric that a verdict is about: the first that every record has, an adapter's before the core's."""
    measured = (name for name in columns.verdict_names if all(name in record["values"] for record in records))
    return next(measured, None)


def _can_judge(rows: Mapping[str, Record], other: str, name: str, columns: Columns) -> bool:
    return all(row in rows and interval_text(rows[row], name, columns) for row in (OURS, other))


def _verdict(ours: Record, other: Record, name: str, columns: Columns) -> str:
    own, theirs = ours["values"][name], other["values"][name]
    both = " and ".join(
        f"{row['name']} {mean_text(row, name, columns)} {interval_text(row, name, columns)}" for row in (ours, other)
    )
    if own["low"] <= theirs["high"] and theirs["low"] <= own["high"]:
        return f"{columns.head(name)}: {both}: the 95 % intervals overlap, so a difference is not shown."
    side = "lower" if own["mean"] < theirs["mean"] else "higher"
    return f"{columns.head(name)}: {both}: {side}, and the 95 % intervals do not overlap."
