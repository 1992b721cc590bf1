"""The records of the cross-domain suite: what a cell is, how it is written, and the table that cells make together.

Seeds share prompts where their data is small, and the base decodes a shared prompt the same way each time. So a prompt
counts once: its numbers are averaged over the seeds that have it before an interval is taken over the prompts.
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
from hypergen.comparison import summaries
from hypergen.disk import write_file

FORMAT = 3  # of a record; part of its plan, so that records of an earlier form are computed again


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
    prompts: list[str] = field(default_factory=list)
    """The beginning of the SHA-256 of each held-out sequence: which examples are of the same prompt."""
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    """How the costlier measures were made."""
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    """Mean and 95 % interval over the examples."""
    examples: dict[str, Any] = field(default_factory=dict)
    """The numbers behind them, one an example, null where one has none; one number for the whole set."""


def section(title: str, cells: list[Cell], missing: list[str]) -> str:
    """The table of one base: all seeds of a row together, then what its intervals say and what it lacks."""
    records = [pooled([cell for cell in cells if cell.row == row]) for row in dict.fromkeys(cell.row for cell in cells)]
    seeds = sorted({cell.seed for cell in cells})
    different = len({prompt for cell in cells for prompt in cell.prompts})
    head = f"## {title}, seed {seeds[0]}\n"
    if len(seeds) > 1:
        head = f"## {title} a seed, {different} different, seeds {', '.join(map(str, seeds))}\n"
    sentences = [*report.verdicts(records), *by_seed(records, cells, seeds), *missing, *noted(cells, seeds)]
    return "\n".join([head, report.markdown(records, report.brief(records)), *(f"- {one}" for one in sentences), ""])


def pooled(cells: list[Cell]) -> dict[str, Any]:
    """One row of the table: the examples of all seeds together. A seed without a number for a measure (nothing was
    overridden, say) leaves that measure to the others."""
    names = dict.fromkeys(name for cell in cells for name in cell.examples)
    together = {name: join(name, [cell for cell in cells if name in cell.examples]) for name in names}
    return {"name": cells[0].row, "values": summaries(together, 0)}


def join(name: str, cells: list[Cell]) -> Tensor:
    """One number a prompt; of a number for the whole set the mean over seeds, and the largest maximum."""
    parts = [tensor_of(cell.examples[name]) for cell in cells]
    if parts[0].ndim:
        return mean_by(torch.cat(parts), [prompt for cell in cells for prompt in cell.prompts])
    return torch.stack(parts).amax() if name.endswith("_max") else torch.stack(parts).mean()


def mean_by(values: Tensor, names: list[str]) -> Tensor:
    """(N,) numbers and their names -> the mean of each name's numbers, in the order of first appearance."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return torch.stack([values[some].nanmean() for some in places.values()])


def by_seed(records: list[dict[str, Any]], cells: list[Cell], seeds: list[int]) -> list[str]:
    """What the verdict is about, seed by seed: the intervals are over prompts and do not have this spread in them."""
    measure = report.judged(records)
    if len(seeds) < 2 or measure is None:
        return []
    rows = [row for row in (report.OURS, *report.OTHERS) if any(cell.row == row for cell in cells)]
    shown = [
        f"{row} {', '.join(report.mean_text({'values': cell.values}, measure) for cell in cells if cell.row == row)}"
        for row in rows
    ]
    return [f"{report.head(measure)}, seeds {', '.join(map(str, seeds))}: {'; '.join(shown)}"]


def noted(cells: list[Cell], seeds: list[int]) -> list[str]:
    """The notes of all cells, each once, with the seeds it holds for where it does not hold for all."""
    of: dict[str, set[int]] = {}
    for cell in cells:
        for name, note in cell.notes.items():
            of.setdefault(f"{report.head(name)}: {note}", set()).add(cell.seed)
    return [
        text if len(own) == len(seeds) else f"{text} (seed {', '.join(map(str, sorted(own)))})"
        for text, own in sorted(of.items())
    ]


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
