"""The records of the cross-domain suite: what a cell is, how it is written, and the table that cells make together.

Does not know: models, trainings, which rows there are (`cross_domain`).
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypergen import report
from hypergen.comparison import summary
from hypergen.disk import write_file


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One record: a row of a table for one seed."""

    base: str
    row: str
    seed: int
    new_tokens: int | None
    plan: dict[str, Any]
    """Everything asked for: trainings, decoding, prompts. What is recorded under another plan is computed again."""
    run_config: dict[str, Any] = field(default_factory=dict)
    """The resolved options of the training behind the row; of the main one for rows of the base."""
    training: dict[str, Any] = field(default_factory=dict)
    data_sha256: str = ""
    prompts_sha256: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    """How the costlier measures were made."""
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    """Mean and 95 % interval over the examples."""
    examples: dict[str, Any] = field(default_factory=dict)
    """The numbers behind them, one an example, null where one has none; one number for the whole set."""


def section(title: str, cells: list[Cell], missing: str) -> str:
    """The table of one base: all seeds of a row together, then what its intervals say and what it lacks."""
    records = [pooled([cell for cell in cells if cell.row == row]) for row in dict.fromkeys(cell.row for cell in cells)]
    seeds = sorted({cell.seed for cell in cells})
    head = f"## {title}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}\n"
    notes = sorted({f"{name}: {note}" for cell in cells for name, note in cell.notes.items()})
    sentences = [*report.verdicts(records), *filter(None, [missing]), *notes]
    return "\n".join([head, report.markdown(records, report.brief(records)), *(f"- {one}" for one in sentences), ""])


def pooled(cells: list[Cell]) -> dict[str, Any]:
    """One row of the table: the examples of all seeds together."""
    names = cells[0].examples
    together = {name: join([tensor_of(cell.examples[name]) for cell in cells]) for name in names}
    return {"name": cells[0].row, "values": {name: summary(values, 0) for name, values in together.items()}}


def join(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts[0].ndim else torch.stack(parts).mean()


def rounded(values: Tensor) -> Any:
    """(N,) or () numbers -> as they are recorded: six digits, null where an example has none."""
    numbers = [None if math.isnan(one) else float(f"{one:.6g}") for one in values.double().flatten().tolist()]
    return numbers if values.ndim else numbers[0]


def tensor_of(recorded: Any) -> Tensor:
    """What `rounded` recorded, (N,) or () float64."""
    numbers = recorded if isinstance(recorded, list) else [recorded]
    values = torch.tensor([math.nan if one is None else one for one in numbers], dtype=torch.float64)
    return values if isinstance(recorded, list) else values[0]


def described(options: dict[str, Any]) -> dict[str, Any]:
    """Options with the files among them named by content, so that records fit on any machine."""
    path = Path(options["data"]) if options.get("data") else None
    if path is None or not path.exists():
        return options
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    digest = hashlib.sha256()
    for one in files:
        digest.update(one.name.encode() + one.read_bytes())
    return options | {"data": f"{path.name}, SHA-256 {digest.hexdigest()}"}


def short_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def slug(name: str) -> str:
    return "-".join("".join(sign if sign.isalnum() else " " for sign in name).split())


def write(path: Path, value: Any) -> None:
    """Whole or not at all, also when the power fails."""
    content = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_file(path, lambda temporary: temporary.write_text(content))


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote; nothing where there is no such file or something has damaged it."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
