"""Run `hypergen generate`: continue prompts, then print the completions or write them.

Shape letters: B prompts, S completion.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypergen import api, registry
from hypergen.config import DecodingConfig, GenerateConfig
from hypergen.decoding.completion_journal import open_journal
from hypergen.decoding.end_tokens import trim
from hypergen.errors import InputError
from hypergen.evaluation.agreement import bf16_agreement
from hypergen.modality import Item
from hypergen.options import base_of, read_record, refuse_empty, stored_settings
from hypergen.report.columns import Columns
from hypergen.report.page import page
from hypergen.run import Run
from hypergen.runtime.console import sanitize, sanitize_block, warn
from hypergen.runtime.devices import describe_machine, pick_device
from hypergen.storage.atomic import disk_errors, publish, write_file
from hypergen.storage.file_names import HELD_OUT_TOKENS, TRAINING_TOKENS
from hypergen.storage.manifest import check_manifest
from hypergen.storage.run_folder import check_output
from hypergen.storage.token_files import stored_tokens

PAGE_SUFFIX = ".html"


def generate(run: str, config: GenerateConfig, decoding: DecodingConfig, given: dict[str, Any]) -> None:
    """Continue the prompts; print texts, or write what --output names.

    Args:
        run: folder, name, file or hub id.
        config: prompts and output.
        decoding: the strategy.
        given: the modality's options that were typed.
    """
    # 1. Check what can be known before the model is loaded.
    refuse_empty(config)
    target = Path(config.output) if config.output else None
    run, name, settings = stored_settings(run, config.modality, given)
    _check_target(target, registry.adapter(name).FIGURE_SUFFIX)
    items = _items(run, config, name, settings)
    if decoding.block_citations:
        stored_tokens(Path(run), TRAINING_TOKENS)
    if config.interpolate is not None:
        base_of(Path(run), read_record(run).get("base"), name)
    if config.verify:
        check_manifest(Path(run), label="verify (MB)")

    # 2. Load, and encode the prompts.
    loaded = api.load(
        run, modality=name, device=config.device, allow_pickle_weights=config.allow_pickle_weights, **given
    )
    if config.interpolate is not None:
        loaded = loaded.interpolate(config.interpolate, allow_pickle_weights=config.allow_pickle_weights)
    rows = loaded.prompt_rows(items)[: config.count]
    if config.prompts:
        warn(f"--prompts {config.prompts}: {len(rows)} {'prompt is' if len(rows) == 1 else 'prompts are'} read")
    elif items is None:
        warn(f"no --prompt and no --prompts: {len(rows)} held-out prompts of {run} are continued, as they are")

    # 3. Complete them; finished batches are kept until the output is written.
    options = asdict(decoding) | {"new": config.max_new_tokens}
    if config.interpolate is not None:
        options |= {"interpolate": config.interpolate}
    machine = describe_machine(pick_device(config.device))
    with open_journal(target, Path(run), options, rows, machine) as batch_store:
        completions = loaded.complete(rows, decoding, config.max_new_tokens, batch_store=batch_store)
        kept = trim(completions, loaded.modality.end_tokens if decoding.stop_at_end else ())
        _deliver(loaded, rows, completions, kept, target=target, as_json=config.json)

    # 4. Report how far bf16 agrees with fp32.
    if decoding.precision == "bf16":
        sequences = [torch.cat([row, ids]) for row, ids in zip(rows, kept, strict=True)]
        share, count = bf16_agreement(loaded.modality.model, sequences, label="compare with fp32")
        warn(f"--precision bf16: fp32 finds the same token most likely at {share:.1%} of these {count:,} places")


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
        _show([loaded.modality.as_text(item) for item in items])


def _as_record(text: str | None) -> dict[str, str]:
    return {} if text is None else {"text": text}


def _items(run: str, config: GenerateConfig, name: str, settings: Any) -> Sequence[Item] | None:
    """Read the items that the flags name: typed ones, or a source; None for the run's held-out sequences.

    Raises:
        InputError: there are fewer of them than --count.
    """
    if config.prompt and config.prompts:
        raise InputError("--prompt and --prompts: give one of them")
    items: Sequence[Item] | None = list(config.prompt) or None
    if config.prompts:
        adapter = registry.adapter(name)
        items = adapter.read(source=config.prompts, settings=settings, skip_bad=config.skip_bad)
    available = len(stored_tokens(Path(run), HELD_OUT_TOKENS) if items is None else items)
    if config.count is not None and available < config.count:
        raise InputError(f"--count {config.count}: there are {available} prompts")
    return items if items is None else items[: config.count]


def _check_target(target: Path | None, figure_suffix: str) -> None:
    """Refuse an output that could not be written, before there is anything to write."""
    if target is None:
        return
    with disk_errors(target):
        if target.suffix and not target.parent.is_dir():
            raise InputError(f"--output {target}: folder {target.parent} does not exist")
        if target.suffix and target.exists():
            raise InputError(f"--output {target}: exists already")
    if target.suffix not in ("", ".jsonl", figure_suffix):
        figure = f"the figure of this modality ends in {figure_suffix}"
        raise InputError(f"--output {target}: must be a folder or end in .jsonl; {figure}")
    if not target.suffix:
        check_output(target, resume=False)


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
    if len({len(row) for row in rows}) > 1:
        raise InputError(f"--output {target}: the prompts differ in length; use a folder or a .jsonl file")
    figure = loaded.modality.comparison_figure(prompts=rows, columns={"completion": completions})
    if target.suffix != PAGE_SUFFIX:
        with tempfile.TemporaryDirectory() as folder:
            (file,) = figure.save(Path(folder))
            write_file(target, lambda temporary: shutil.copyfile(file, temporary))
        return
    title = f"hypergen: {loaded.folder.name}"
    shown = page(title, [], Columns.of(), facts={}, curves={}, figure=figure.html())
    write_file(target, lambda temporary: temporary.write_text(shown, encoding="utf-8"))


def _show(texts: list[str | None]) -> None:
    """Print the completions.

    Raises:
        InputError: they are nothing that a terminal shows.
    """
    if None in texts:
        raise InputError("--output: needed for what cannot be printed, a folder or a .png file")
    for number, text in enumerate(texts, 1):
        print(f"--- {number}\n{sanitize_block(text or '')}")
