"""Keep the log of a training, `metrics.jsonl`: one JSON object an epoch, rewritten atomically at each."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from hypergen.storage.atomic import write_file
from hypergen.storage.file_names import METRICS


def append_metrics(folder: Path, record: dict[str, Any]) -> None:
    """Add one line to `metrics.jsonl`."""
    _write_log(folder, [*read_metrics(folder), record])


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the complete lines of `metrics.jsonl` that belong to an epoch; none where there is no log."""
    path = folder / METRICS
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("epoch"), int)]


def rewind_metrics(folder: Path, epochs: int) -> None:
    """Keep the lines of the first `epochs` epochs: a training that goes on from there writes the others again."""
    if (folder / METRICS).is_file():
        _write_log(folder, [row for row in read_metrics(folder) if row["epoch"] <= epochs])


def _write_log(folder: Path, rows: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write_file(folder / METRICS, lambda temporary: temporary.write_text(lines))
