"""Read, write and pool the records of the cross-domain suite, and print the table that they make together.

Seeds share prompts where their data is small, and the base decodes a shared prompt the same way each time. So a prompt
counts once: its numbers are averaged over the seeds that have it before an interval is taken over the prompts.
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

from hypergen.evaluation.bootstrap import summaries
from hypergen.report.columns import Columns
from hypergen.report.markdown import markdown
from hypergen.report.table import mean_text
from hypergen.report.verdicts import OTHERS, OURS, verdicts
from hypergen.storage.atomic import write_file

FORMAT = 3  # of a record; part of its plan, so that records of an earlier form are computed again


@dataclass(frozen=True, kw_only=True)
class SuiteRecord:
    """Hold one row of a table for one seed."""

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
    """How the costlier metrics were computed."""
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    """Mean and 95 % interval over the examples."""
    examples: dict[str, Any] = field(default_factory=dict)
    """The numbers behind them, one an example, null where one has none; one number for the whole set."""


def section(title: str, records: list[SuiteRecord], missing: list[str], columns: Columns) -> str:
    """Print the table of one base: all seeds of a row together, then what its intervals say and what it lacks."""
    names = dict.fromkeys(record.row for record in records)
    rows = [pool_seeds([record for record in records if record.row == name]) for name in names]
    seeds = sorted({record.seed for record in records})
    num_prompts = len({prompt for record in records for prompt in record.prompts})
    head = f"## {title}, seed {seeds[0]}\n"
    if len(seeds) > 1:
        head = f"## {title} a seed, {num_prompts} different, seeds {', '.join(map(str, seeds))}\n"
    sentences = [*verdicts(rows, columns), *_by_seed(columns.judged(rows), records, seeds, columns)]
    sentences += [*missing, *_notes(records, seeds, columns)]
    return "\n".join([head, markdown(rows, columns, columns.brief(rows)), *(f"- {one}" for one in sentences), ""])


def pool_seeds(records: list[SuiteRecord]) -> dict[str, Any]:
    """Pool the examples of all seeds into one row of the table.

    A seed without a number for a metric (nothing was overridden, say) leaves that metric to the others.
    """
    names = dict.fromkeys(name for record in records for name in record.examples)
    pooled = {name: _pool_metric(name, [record for record in records if name in record.examples]) for name in names}
    return {"name": records[0].row, "values": summaries(pooled, 0)}


def _pool_metric(name: str, records: list[SuiteRecord]) -> Tensor:
    """Average over the seeds, prompt by prompt; of a number for the whole set the mean, and the largest maximum."""
    parts = [to_tensor(record.examples[name]) for record in records]
    if parts[0].ndim:
        return _mean_by_prompt(torch.cat(parts), [prompt for record in records for prompt in record.prompts])
    return torch.stack(parts).amax() if name.endswith("_max") else torch.stack(parts).mean()


def _mean_by_prompt(values: Tensor, prompts: list[str]) -> Tensor:
    """Average the numbers (N,) of each prompt, in the order of first appearance."""
    places: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        places.setdefault(prompt, []).append(place)
    return torch.stack([values[some].nanmean() for some in places.values()])


def _by_seed(metric: str | None, records: list[SuiteRecord], seeds: list[int], columns: Columns) -> list[str]:
    """List the metric of the verdict seed by seed: intervals over prompts do not contain this spread."""
    if len(seeds) < 2 or metric is None:
        return []
    shown = []
    for row in (OURS, *OTHERS):
        means = [mean_text({"values": record.values}, metric, columns) for record in records if record.row == row]
        shown += [f"{row} {', '.join(means)}"] if means else []
    return [f"{columns.head(metric)}, seeds {', '.join(map(str, seeds))}: {'; '.join(shown)}"]


def _notes(records: list[SuiteRecord], seeds: list[int], columns: Columns) -> list[str]:
    """List the notes of all records, each once, with the seeds it holds for where it does not hold for all."""
    seeds_of: dict[str, set[int]] = {}
    for record in records:
        for name, note in record.notes.items():
            seeds_of.setdefault(f"{columns.head(name)}: {note}", set()).add(record.seed)
    return [
        text if len(own) == len(seeds) else f"{text} (seed {', '.join(map(str, sorted(own)))})"
        for text, own in sorted(seeds_of.items())
    ]


def to_json(values: Tensor) -> Any:
    """Round numbers, (N,) or (), to six digits as they are recorded; null where an example has none."""
    numbers = [None if math.isnan(one) else float(f"{one:.6g}") for one in values.double().flatten().tolist()]
    return numbers if values.ndim else numbers[0]


def to_tensor(recorded: Any) -> Tensor:
    """Read what `to_json` recorded: (N,) or () float64."""
    numbers = recorded if isinstance(recorded, list) else [recorded]
    values = torch.tensor([math.nan if one is None else one for one in numbers], dtype=torch.float64)
    return values if isinstance(recorded, list) else values[0]


def with_file_hashes(options: dict[str, Any]) -> dict[str, Any]:
    """Name the file or folder of data by its content, so that records fit on any machine."""
    path = Path(options["data"]) if options.get("data") else None
    if path is None or not path.exists():
        return options
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    digest = hashlib.sha256()
    for one in files:
        digest.update(one.name.encode() + one.read_bytes())
    return options | {"data": f"{path.name}, SHA-256 {digest.hexdigest()}"}


def short_hash(value: Any) -> str:
    """Hash a JSON value into 8 digits, for names of folders."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def slug(name: str) -> str:
    """Turn the name of a row into a part of a file name."""
    return "-".join("".join(sign if sign.isalnum() else " " for sign in name).split())


def write(path: Path, value: Any) -> None:
    """Write JSON whole or not at all, also when the power fails."""
    content = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_file(path, lambda temporary: temporary.write_text(content))


def read(path: Path) -> dict[str, Any]:
    """Read JSON that `write` wrote; empty where there is no such file or something has damaged it."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
