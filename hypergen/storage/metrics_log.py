"""Keep the log of a training, `metrics.jsonl`: one JSON object an epoch, rewritten atomically at each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypergen.runtime.console import warn
from hypergen.storage.atomic import write_file
from hypergen.storage.file_names import METRICS


def append_metrics(folder: Path, record: dict[str, Any]) -> None:
    """Add one line to `metrics.jsonl`."""
    _write_log(folder, [*read_metrics(folder), record])


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the rows of `metrics.jsonl`: whole lines, of an epoch, with numbers; none where there is no log."""
    return [row for row in _rows(folder) if row is not None]


def rewind_metrics(folder: Path, epochs: int) -> None:
    """Keep the rows of the first `epochs` epochs: a training that goes on from there writes the others again.

    The log is judged here, before any training, and not when the report is written from it.
    """
    if not (folder / METRICS).is_file():
        return
    rows = _rows(folder)
    if num_wrong := rows.count(None):
        warn(f"{folder / METRICS}: {num_wrong} of its {len(rows)} lines are not of a training log; they are left out")
    _write_log(folder, [row for row in rows if row is not None and row["epoch"] <= epochs])


def _rows(folder: Path) -> list[dict[str, Any] | None]:
    """Read every line that is not blank; None for one that no training wrote so."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return [_row(line) for line in lines if line.strip()]


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if _is_row(row) else None


def _is_row(row: Any) -> bool:
    """Tell whether this is of an epoch, and numbers alone."""
    is_whole = isinstance(row, dict) and isinstance(row.get("epoch"), int)
    return is_whole and all(isinstance(one, int | float) and not isinstance(one, bool) for one in row.values())


def _write_log(folder: Path, rows: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write_file(folder / METRICS, lambda temporary: temporary.write_text(lines))
