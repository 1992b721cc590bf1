"""What `hypergen generate` and `hypergen evaluate` read from their flags, print and write.

Does not know: what an item is; the modality writes its own files.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hypergen import api, registry, report, run
from hypergen.errors import InputError
from hypergen.loaded import Run
from hypergen.measures import trim

if TYPE_CHECKING:
    from hypergen.cli import Evaluate, Generate


def generate(command: Generate) -> None:
    """Continue the prompts; print texts, or write what --output names."""
    target = Path(command.output) if command.output else None
    _check_target(target)
    if command.prompt and command.prompts:
        raise InputError("--prompt and --prompts: give one of them")
    loaded = api.load(command.run, modality=command.modality, device=command.device, **command.settings.given())
    rows = prompt_rows(loaded, command)
    completions = loaded.complete(rows, command.max_new_tokens, **asdict(command.decoding))
    items = loaded.modality.assemble(rows, completions)
    end = loaded.modality.end_token if command.decoding.stop_at_end else None
    records = [
        {"prompt_tokens": row.tolist(), "completion_tokens": ids.tolist()} | _text(item)
        for row, ids, item in zip(rows, trim(completions, end), items, strict=True)
    ]
    if command.json:
        for record in records:
            print(json.dumps(record))
    if target is not None:
        _write(target, loaded, rows, completions, items, records)
    elif not command.json:
        _show(items)


def prompt_rows(loaded: Run, command: Generate) -> list[Tensor]:
    """Ids of the prompts that the flags name: typed ones, a source, or the run's held-out sequences."""
    if command.prompt:
        items: Any = list(command.prompt)
    elif command.prompts:
        items = registry.adapter(loaded.modality.name).read(command.prompts, loaded.modality.settings)
        items = items[: command.count] if command.count else items
    else:
        return loaded.prompt_rows()[: command.count]
    if command.count is not None and len(items) < command.count:
        raise InputError(f"--count {command.count}: there are {len(items)} prompts")
    return [loaded.modality.encode_prompt(item) for item in items]


def evaluate(command: Evaluate) -> None:
    """Compare; print the table, and write records and figure into --output."""
    folder = Path(command.output) if command.output else None
    if folder is not None:
        run.check_output(folder, resume=False)
    compared = api.evaluate(command.run, command.evaluate)
    if command.json:
        print(json.dumps(compared.records))
    else:
        report.terminal(compared.records)
    if folder is not None:
        run.publish(folder, lambda temporary: write_comparison(temporary, compared))
        print(f"look at {folder}") if not command.json else None


def write_comparison(folder: Path, compared: Any) -> None:
    """`records.json`, `records.md` and the figure."""
    (folder / "records.json").write_text(json.dumps(compared.records, indent=1))
    (folder / "records.md").write_text(report.markdown(compared.records))
    figure = compared.figure()
    if not isinstance(figure, str):
        figure.save(folder / "grid.png")
        figure = (folder / "grid.png").read_bytes()
    page = report.page("hypergen: comparison", compared.records, {}, {}, figure)
    (folder / "report.html").write_text(page, encoding="utf-8")


def _check_target(target: Path | None) -> None:
    if target is None:
        return
    if target.suffix and not target.parent.is_dir():
        raise InputError(f"--output {target}: folder {target.parent} does not exist")
    if target.suffix and target.exists():
        raise InputError(f"--output {target}: exists already")
    if not target.suffix:
        run.check_output(target, resume=False)


def _write(target: Path, loaded: Run, rows: list[Tensor], completions: Tensor, items: list[Any], records: list) -> None:
    """A folder gets one file an item, .jsonl the records, anything else the comparison figure."""
    if not target.suffix:
        run.publish(target, lambda temporary: loaded.modality.write(items, temporary) and None)
    elif target.suffix == ".jsonl":
        target.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        _write_figure(target, loaded, rows, completions)
    print(f"look at {target}")


def _write_figure(target: Path, loaded: Run, rows: list[Tensor], completions: Tensor) -> None:
    import torch

    if len({len(row) for row in rows}) > 1:
        raise InputError(f"--output {target}: the prompts differ in length; use a folder or a .jsonl file")
    figure = loaded.modality.compare(torch.stack(rows), {"completion": completions})
    if isinstance(figure, str):
        page = report.page(f"hypergen: {loaded.folder.name}", [], {}, {}, figure)
        target.write_text(page, encoding="utf-8")
    else:
        figure.save(target)


def _text(item: Any) -> dict[str, str]:
    return {"text": item} if isinstance(item, str) else {}


def _show(items: list[Any]) -> None:
    """Print what can be printed."""
    if not all(isinstance(item, str) for item in items):
        raise InputError("--output: needed for what cannot be printed, a folder or a .png file")
    for number, item in enumerate(items, 1):
        clean = "".join(sign for sign in item if sign.isprintable() or sign == "\n")
        print(f"--- {number}\n{clean}")
