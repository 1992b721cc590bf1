"""Write what a finished run or base contains: model, `hypergen.json`, stored sequences, samples, figure and report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from hypergen import registry
from hypergen.evaluation import baselines
from hypergen.evaluation.comparison import Comparison
from hypergen.modality import Figure, Modality
from hypergen.report.columns import Columns
from hypergen.report.page import curves, page
from hypergen.storage.file_names import HELD_OUT_TOKENS, RECORD, REPORT, SAMPLES, TRAINING_TOKENS
from hypergen.storage.metrics_log import read_metrics


def write_run(temporary: Path, folder: Path, modality: Modality, compare: Comparison, facts: dict[str, Any]) -> None:
    """Write a run into `temporary`, from where it is moved into `folder`, whose log it reads."""
    modality.save(temporary)
    save_file({"tokens": compare.training}, temporary / TRAINING_TOKENS)
    save_file({"tokens": compare.held_out}, temporary / HELD_OUT_TOKENS)
    (temporary / RECORD).write_text(json.dumps(facts, indent=1))
    completions = compare.columns[baselines.HYPERFITTED_GREEDY]
    modality.write(modality.render(list(compare.prompts), completions), temporary / SAMPLES)
    figure = compare.figure(baselines.SHOWN)
    figure.save(temporary)
    (temporary / REPORT).write_text(report_page(folder, facts, figure), encoding="utf-8")


def report_page(folder: Path, facts: dict[str, Any], figure: Figure) -> str:
    """Render `report.html` of a run."""
    training, config = facts["training"], facts["config"]
    shown = {
        "base": facts["base"],
        "data": config["data"],
        "sequences": f"{facts['sequences'][0]} of {facts['sequences'][1]} tokens",
        "trained": f"last {config['last_layers']} blocks" if config["last_layers"] else "all layers",
        "learning rate": config["learning_rate"],
        "epochs": training["epochs"],
        "training loss": round(training["loss"], 3),
        "training token accuracy": round(training["accuracy"], 3),
        "stopped by": training["stopped_by"],
        "seconds": round(training["seconds"], 1),
        "seed": config["seed"],
        "compared": facts["compared"],
        "made with": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
    }
    columns = Columns.of(registry.adapter(facts["modality"]).METRICS)
    log = [{"epoch": 0} | facts["look_before"], *read_metrics(folder)]
    return page(
        f"hypergen: {folder.name}",
        facts["comparison"],
        columns,
        facts=shown,
        curves=curves(log),
        figure=figure.html(),
    )


def write_base(temporary: Path, modality: Modality, facts: dict[str, Any]) -> None:
    """Write a base."""
    modality.save(temporary)
    (temporary / RECORD).write_text(json.dumps(facts, indent=1))
