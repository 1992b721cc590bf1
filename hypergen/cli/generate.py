"""Run `hypergen generate`: continue prompts, then print the completions or write them.

Shape letters: B prompts, S completion.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from hypergen import api, registry
from hypergen.checks import require_prompts
from hypergen.config import DecodingConfig, GenerateConfig
from hypergen.decoding.completion_journal import open_journal
from hypergen.decoding.end_tokens import trim
from hypergen.errors import InputError
from hypergen.evaluation.agreement import bf16_agreement
from hypergen.modality import Item, Modality
from hypergen.options import stored_settings
from hypergen.report.columns import Columns
from hypergen.report.page import page
from hypergen.run import Run
from hypergen.runtime.console import dim, sanitize, sanitize_block
from hypergen.runtime.devices import describe_machine, pick_device
from hypergen.runtime.progress import hidden, note
from hypergen.storage.atomic import publish, write_file
from hypergen.storage.manifest import check_manifest

PAGE_SUFFIX = ".html"


def generate(
    run: str, config: GenerateConfig, decoding: DecodingConfig, *, modality: str, given: dict[str, Any]
) -> None:
    """Continue the prompts; print texts, or write what --output names.

    Args:
        run: folder, name, file or hub id, checked as the rest is (`checks.check_generate`).
        config: prompts and output.
        decoding: the strategy.
        modality: of the run.
        given: the modality's options that were typed.
    """
    # 1. Check what the adapter knows before the model is loaded.
    target = Path(config.output) if config.output else None
    _check_suffix(target, registry.adapter(modality).FIGURE_SUFFIX)
    items = _items(run, config, modality, given)
    if config.verify:
        check_manifest(Path(run), label="verify (MB)", beside=registry.export_endings(modality))

    # 2. Load, and encode the prompts.
    loaded = api.load(
        run, modality=modality, device=config.device, allow_pickle_weights=config.allow_pickle_weights, **given
    )
    if config.interpolate is not None:
        loaded = loaded.interpolate(config.interpolate, allow_pickle_weights=config.allow_pickle_weights)
    rows = loaded.prompt_rows(items)[: config.count]
    if not config.prompt:
        note(_count(rows, config.prompts, run))
    is_printed = target is None and not config.json
    if is_printed:
        _require_text(loaded, rows)

    _check_figure(target, rows)

    # 3. Complete them; finished batches are kept until the output is written.
    options = asdict(decoding) | {"new": config.max_new_tokens}
    if config.interpolate is not None:
        options |= {"interpolate": config.interpolate}
    machine = describe_machine(pick_device(config.device))
    stream = Stream(loaded.modality, rows[0]) if is_printed and len(rows) == 1 and sys.stdout.isatty() else None
    num_tokens = loaded.modality.model.num_tokens
    with (
        open_journal(target, Path(run), options, rows, machine, num_tokens=num_tokens) as batch_store,
        hidden(stream is not None),
    ):
        completions = loaded.complete(
            rows,
            decoding,
            config.max_new_tokens,
            batch_store=batch_store,
            on_tokens=None if stream is None else stream.show,
        )
        kept = trim(completions, loaded.modality.end_tokens if decoding.stop_at_end else ())
        if stream is not None:
            stream.finish(completions)
        else:
            _deliver(loaded, rows, completions, kept, target=target, as_json=config.json)

    # 4. Report how far bf16 agrees with fp32.
    if decoding.precision == "bf16":
        sequences = [torch.cat([row, ids]) for row, ids in zip(rows, kept, strict=True)]
        share, count = bf16_agreement(loaded.modality.model, sequences, label="compare with fp32")
        note(f"--precision bf16: fp32 finds the same token most likely at {share:.1%} of these {count:,} places")


@final
class Stream:
    """Print the completion of one prompt while it grows, whole words at a time, so that nothing has to be taken back.

    What is printed in the end is what `_show` prints.
    """

    def __init__(self, modality: Modality, row: Tensor):
        self._modality, self._row, self._printed = modality, row, ""
        print(f"{_head(1)}{_prompt(modality, row)}", end="", flush=True)

    def show(self, completions: Tensor) -> None:
        """Print the new words of a completion (1, S)."""
        text = self._text(completions)
        self._print(text[: max(text.rfind(" "), text.rfind("\n")) + 1])

    def finish(self, completions: Tensor) -> None:
        """Print what is left of the whole completion (1, S)."""
        text = self._text(completions)
        if not text.startswith(self._printed):  # a tokenizer that changes what it has said
            print(f"\n{text}")
            return
        self._print(text)
        print()

    def _text(self, completions: Tensor) -> str:
        (item,) = self._modality.render(prompts=[self._row], completions=completions)
        return sanitize_block(self._modality.as_text(item) or "")

    def _print(self, text: str) -> None:
        if text.startswith(self._printed) and text != self._printed:
            print(text[len(self._printed) :], end="", flush=True)
            self._printed = text


def _deliver(
    loaded: Run,
    rows: list[Tensor],
    completions: Tensor,
    kept: list[Tensor],
    *,
    target: Path | None,
    as_json: bool,
) -> None:
    """Print or write the completions (B, S); `kept` holds them without what follows the end token."""
    items = loaded.modality.render(prompts=rows, completions=completions)
    records = [
        {"prompt_tokens": row.tolist(), "completion_tokens": ids.tolist()} | _as_record(loaded.modality.as_text(item))
        for row, ids, item in zip(rows, kept, items, strict=True)
    ]
    if as_json:
        for record in records:
            print(json.dumps(record))
    if target is not None:
        _write(target, loaded, rows, completions, items=items, records=records)
        if not as_json:
            print(f"wrote {sanitize(str(target))}")
    elif not as_json:
        _show(loaded.modality, rows, [loaded.modality.as_text(item) for item in items])


def _as_record(text: str | None) -> dict[str, str]:
    return {} if text is None else {"text": text}


def _items(run: str, config: GenerateConfig, name: str, given: dict[str, Any]) -> Sequence[Item] | None:
    """Read the items that the flags name: typed ones, or a source; None for the run's held-out sequences.

    Raises:
        InputError: there are fewer of them than --count.
    """
    if not config.prompts:
        return list(config.prompt)[: config.count] or None
    _, _, settings = stored_settings(run, name, given)
    items = registry.adapter(name).read(source=config.prompts, settings=settings, skip_bad=config.skip_bad)
    require_prompts(config.count, len(items))
    return items[: config.count]


def _count(rows: list[Tensor], source: str | None, run: str) -> str:
    """Say how many prompts there are that nobody typed."""
    if source is not None:
        return f"--prompts {source}: {len(rows)} {'prompt is' if len(rows) == 1 else 'prompts are'} read"
    return f"no --prompt and no --prompts: {len(rows)} held-out prompts of {run} are continued, as they are"


def _check_suffix(target: Path | None, figure_suffix: str) -> None:
    """Refuse an output of a kind that the modality does not have."""
    if target is not None and target.suffix not in ("", ".jsonl", figure_suffix):
        figure = f"the figure of this modality ends in {figure_suffix}"
        raise InputError(f"--output {target}: must be a folder or end in .jsonl; {figure}")


def _require_text(loaded: Run, rows: list[Tensor]) -> None:
    """Refuse to complete what a terminal cannot show.

    Raises:
        InputError: the items of the modality have no text.
    """
    items = loaded.modality.render(prompts=rows[:1], completions=torch.empty(len(rows[:1]), 0, dtype=torch.long))
    if None in map(loaded.modality.as_text, items):
        raise InputError("--output: needed for what cannot be printed, a folder or a .png file")


def _check_figure(target: Path | None, rows: list[Tensor]) -> None:
    """Refuse a figure of prompts that differ in length, before they are completed."""
    is_figure = target is not None and target.suffix not in ("", ".jsonl")
    if is_figure and len({len(row) for row in rows}) > 1:
        raise InputError(f"--output {target}: the prompts differ in length; use a folder or a .jsonl file")


def _write(
    target: Path,
    loaded: Run,
    rows: list[Tensor],
    completions: Tensor,
    *,
    items: list[Item],
    records: list[dict[str, Any]],
) -> None:
    """Write one file an item into a folder, the records into a .jsonl file, or the figure into any other."""
    if not target.suffix:
        publish(target, lambda temporary: loaded.modality.write(items, temporary))
    elif target.suffix == ".jsonl":
        lines = "".join(json.dumps(record) + "\n" for record in records)
        write_file(target, lambda temporary: temporary.write_text(lines))
    else:
        _write_figure(target, loaded, rows, completions)


def _write_figure(target: Path, loaded: Run, rows: list[Tensor], completions: Tensor) -> None:
    """Write the comparison figure: its own file, or a page around it where it has none."""
    figure = loaded.modality.comparison_figure(prompts=rows, columns={"completion": completions})
    if target.suffix != PAGE_SUFFIX:
        with tempfile.TemporaryDirectory() as folder:
            (file,) = figure.save(Path(folder))
            write_file(target, lambda temporary: shutil.copyfile(file, temporary))
        return
    title = f"hypergen: {loaded.folder.name}"
    shown = page(title, [], Columns.of(), facts={}, curves={}, figure=figure.html())
    write_file(target, lambda temporary: temporary.write_text(shown, encoding="utf-8"))


def _show(modality: Modality, rows: list[Tensor], texts: list[str | None]) -> None:
    """Print each prompt, faint on a terminal, and its completion."""
    for number, (row, text) in enumerate(zip(rows, texts, strict=True), 1):
        print(f"{_head(number)}{_prompt(modality, row)}{sanitize_block(text or '')}")


def _head(number: int) -> str:
    return f"--- {number}\n"


def _prompt(modality: Modality, row: Tensor) -> str:
    """Decode a prompt (P,) for the terminal."""
    (item,) = modality.decode(row[None])
    return dim(sanitize_block(modality.as_text(item) or ""), sys.stdout)
