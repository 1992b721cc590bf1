"""Run `hypergen evaluate`: compare, print the table, write records and figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hypergen import api, registry
from hypergen.config import EvaluateConfig
from hypergen.evaluation import baselines
from hypergen.evaluation.comparison import Comparison
from hypergen.report.columns import Columns
from hypergen.report.markdown import markdown
from hypergen.report.page import Head, interpolation_curves, page
from hypergen.report.terminal import terminal
from hypergen.report.verdicts import titled, verdicts
from hypergen.runtime.console import sanitize
from hypergen.storage.atomic import publish
from hypergen.storage.file_names import RECORDS_JSON, RECORDS_MARKDOWN, REPORT
from hypergen.storage.manifest import check_manifest


def evaluate(run: str, config: EvaluateConfig, *, output: str | None, verify: bool, as_json: bool) -> None:
    """Compare; print the table, and write records and figure into `output`."""
    folder = Path(output) if output else None
    if verify:
        check_manifest(Path(run), label="verify (MB)")
    compared = api.evaluate(run, config)
    columns = Columns.of(registry.adapter(compared.modality.name).METRICS)
    if as_json:
        print(json.dumps(compared.records))
    else:
        records = titled(compared.records, compared.verdict)
        terminal(records, columns, columns.brief(records, first=columns.summary(records)), with_directions=True)
        for sentence in sentences(compared, columns):
            print(sentence)
    if folder is not None:
        publish(folder, lambda temporary: write_comparison(temporary, compared, columns, config.interpolations))
        if not as_json:
            print(f"wrote {sanitize(str(folder))}")


def write_comparison(folder: Path, compared: Comparison, columns: Columns, alphas: Sequence[float]) -> None:
    """Write `records.json`, `records.md` (with verdicts and notes), the figure, and a page with the curves."""
    (folder / RECORDS_JSON).write_text(json.dumps(compared.records, indent=1))
    below = "".join(f"- {line}\n" for line in sentences(compared, columns))
    records = titled(compared.records, compared.verdict)
    (folder / RECORDS_MARKDOWN).write_text(f"{markdown(records, columns)}\n{below}", encoding="utf-8")
    figure = compared.figure(baselines.SHOWN)
    figure.save(folder)
    facts = {"compared": compared.sizes} | {columns.head(name): note for name, note in compared.notes.items()}
    rows = baselines.interpolation_rows(alphas)
    shown = page(
        "hypergen: comparison",
        records,
        columns,
        head=Head(verdict=compared.verdict, facts={"compared": compared.sizes}),
        facts=facts,
        curves=interpolation_curves(compared.records, columns, rows) if alphas else {},
        figure=figure.html(),
        curves_title="Between the base (alpha 0) and the run (1)",
        curves_over="alpha",
    )
    (folder / REPORT).write_text(shown, encoding="utf-8")


def sentences(compared: Comparison, columns: Columns) -> list[str]:
    """Say whether it is hyperfitted, what the intervals show, and what the numbers rest on.

    That is sizes, signatures, features, and what is missing.
    """
    notes = (f"{columns.head(name)}: {note}" for name, note in compared.notes.items())
    judged = () if compared.verdict is None else compared.verdict.sentences
    details = verdicts(titled(compared.records, compared.verdict), columns)
    return [*map(sanitize, judged), *details, compared.sizes, *notes]
