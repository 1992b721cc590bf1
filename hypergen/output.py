"""What `hypergen generate` and `hypergen evaluate` read from their flags, print and write.

Does not know: what an item is; the modality writes its own files.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hypergen import api, registry, report, run
from hypergen.disk import check_manifest, disk_errors, publish, write_file
from hypergen.errors import InputError
from hypergen.kept_completions import kept
from hypergen.loaded import HELD_OUT_TOKENS, TRAINING_TOKENS, Run, stored_tokens
from hypergen.measures import trim
from hypergen.precision import agreement
from hypergen.record import machine
from hypergen.report_table import is_printable, printable
from hypergen.resolve import pick_device, refuse_empty, stored_settings

if TYPE_CHECKING:
    from hypergen.cli import Evaluate, Generate


def generate(command: Generate) -> None:
    """Continue the prompts; print texts, or write what --output names."""
    refuse_empty(command)
    target = Path(command.output) if command.output else None
    _check_target(target)
    name, settings = stored_settings(command.run, command.modality, command.settings.given())
    items = _items(command, name, settings)
    if command.decoding.block_citations:
        stored_tokens(Path(command.run), TRAINING_TOKENS)
    if command.verify:
        check_manifest(Path(command.run))
    loaded = api.load(
        command.run,
        modality=name,
        device=command.device,
        allow_pickle_weights=command.allow_pickle_weights,
        **command.settings.given(),
    )
    rows = loaded.prompt_rows(items)[: command.count]
    decoding = asdict(command.decoding)
    options = decoding | {"new": command.max_new_tokens}
    with kept(target, Path(command.run), options, rows, machine(pick_device(command.device))) as keep:
        completions = loaded.complete(rows, command.max_new_tokens, keep=keep, **decoding)
        _deliver(command, loaded, rows, completions)
    if command.decoding.precision == "bf16":
        whole = [torch.cat([row, ids]) for row, ids in zip(rows, trim(completions, _end(command, loaded)), strict=True)]
        share, places = agreement(loaded.modality.model, whole)
        told = f"fp32 finds the same token most likely at {share:.1%} of these {places:,} places"
        print(f"hypergen: --precision bf16: {told}", file=sys.stderr)


def _deliver(command: Generate, loaded: Run, rows: list[Tensor], completions: Tensor) -> None:
    """Print or write what was generated."""
    target = Path(command.output) if command.output else None
    items = loaded.modality.assemble(rows, completions)
    records = [
        {"prompt_tokens": row.tolist(), "completion_tokens": ids.tolist()} | _text(item)
        for row, ids, item in zip(rows, trim(completions, _end(command, loaded)), items, strict=True)
    ]
    if command.json:
        for record in records:
            print(json.dumps(record))
    if target is not None:
        _write(target, loaded, rows, completions, items, records)
        print(f"look at {printable(str(target))}") if not command.json else None
    elif not command.json:
        _show(items)


def _end(command: Generate, loaded: Run) -> int | None:
    return loaded.modality.end_token if command.decoding.stop_at_end else None


def _items(command: Generate, name: str, settings: Any) -> Any:
    """The items that the flags name: typed ones, or a source; None for the run's held-out sequences.

    Raises:
        InputError: there are fewer of them than --count.
    """
    if command.prompt and command.prompts:
        raise InputError("--prompt and --prompts: give one of them")
    items: Any = list(command.prompt) or None
    if command.prompts:
        items = registry.adapter(name).read(command.prompts, settings, command.skip_bad)
    available = len(stored_tokens(Path(command.run), HELD_OUT_TOKENS) if items is None else items)
    if command.count is not None and available < command.count:
        raise InputError(f"--count {command.count}: there are {available} prompts")
    return items if items is None else items[: command.count]


def evaluate(command: Evaluate) -> None:
    """Compare; print the table, and write records and figure into --output."""
    refuse_empty(command)
    folder = Path(command.output) if command.output else None
    if folder is not None:
        run.check_output(folder, resume=False)
    if command.verify:
        check_manifest(Path(command.run))
    compared = api.evaluate(command.run, command.evaluate)
    if command.json:
        print(json.dumps(compared.records))
    else:
        report.terminal(compared.records, report.brief(compared.records))
        for sentence in (*report.verdicts(compared.records), *_noted(compared)):
            print(sentence)
    if folder is not None:
        publish(folder, lambda temporary: write_comparison(temporary, compared))
        print(f"look at {printable(str(folder))}") if not command.json else None


def write_comparison(folder: Path, compared: Any) -> None:
    """`records.json`, `records.md` (with what the intervals say and how the numbers were made) and the figure."""
    (folder / "records.json").write_text(json.dumps(compared.records, indent=1))
    below = "".join(f"- {line}\n" for line in (*report.verdicts(compared.records), *_noted(compared)))
    (folder / "records.md").write_text(f"{report.markdown(compared.records)}\n{below}", encoding="utf-8")
    figure = compared.figure()
    if not isinstance(figure, str):
        figure.save(folder / "grid.png")
        figure = (folder / "grid.png").read_bytes()
    facts = {"compared": compared.sizes} | {report.head(name): note for name, note in compared.notes.items()}
    page = report.page("hypergen: comparison", compared.records, facts, {}, figure)
    (folder / "report.html").write_text(page, encoding="utf-8")


def _noted(compared: Any) -> list[str]:
    """What the numbers rest on: sizes, signatures, features, and what is not measured and why."""
    return [compared.sizes, *(f"{report.head(name)}: {note}" for name, note in compared.notes.items())]


def _check_target(target: Path | None) -> None:
    if target is None:
        return
    with disk_errors(target):
        if target.suffix and not target.parent.is_dir():
            raise InputError(f"--output {target}: folder {target.parent} does not exist")
        if target.suffix and target.exists():
            raise InputError(f"--output {target}: exists already")
    if target.suffix not in ("", ".jsonl", ".png", ".html"):
        raise InputError(f"--output {target}: must be a folder or end in .jsonl, .png or .html")
    if not target.suffix:
        run.check_output(target, resume=False)


def _write(target: Path, loaded: Run, rows: list[Tensor], completions: Tensor, items: list[Any], records: list) -> None:
    """A folder gets one file an item, .jsonl the records, anything else the comparison figure."""
    if not target.suffix:
        publish(target, lambda temporary: loaded.modality.write(items, temporary))
    elif target.suffix == ".jsonl":
        lines = "".join(json.dumps(record) + "\n" for record in records)
        write_file(target, lambda temporary: temporary.write_text(lines))
    else:
        _write_figure(target, loaded, rows, completions)


def _write_figure(target: Path, loaded: Run, rows: list[Tensor], completions: Tensor) -> None:
    import torch

    if len({len(row) for row in rows}) > 1:
        raise InputError(f"--output {target}: the prompts differ in length; use a folder or a .jsonl file")
    figure = loaded.modality.compare(torch.stack(rows), {"completion": completions})
    suffix = ".html" if isinstance(figure, str) else ".png"
    if target.suffix != suffix:
        raise InputError(f"--output {target}: the figure of this modality ends in {suffix}")
    if isinstance(figure, str):
        page = report.page(f"hypergen: {loaded.folder.name}", [], {}, {}, figure)
        write_file(target, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    else:
        write_file(target, figure.save)


def _text(item: Any) -> dict[str, str]:
    return {"text": item} if isinstance(item, str) else {}


def _show(items: list[Any]) -> None:
    """Print what can be printed."""
    if not all(isinstance(item, str) for item in items):
        raise InputError("--output: needed for what cannot be printed, a folder or a .png file")
    for number, item in enumerate(items, 1):
        clean = "".join(sign for sign in item if sign == "\n" or is_printable(sign))
        print(f"--- {number}\n{clean}")
