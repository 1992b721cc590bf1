"""What a finished run says about itself: `hypergen.json`, the stored sequences, samples, figure and report.

Does not know: what a token means, how the folder is published (`run`).
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from hypergen import report, run
from hypergen.comparison import Comparison
from hypergen.config import FitConfig, PretrainConfig, flag
from hypergen.loaded import HELD_OUT_TOKENS, TRAINING_TOKENS

FREE_ON_RESUME = {"output", "resume", "device", "checkpoint_every"}


def facts_of(name: str, config: FitConfig | PretrainConfig, settings: Any, tokens: Tensor) -> dict[str, Any]:
    """What `hypergen.json` records."""
    libraries = ("hypergen", "torch", "transformers", "diffusers", "safetensors")
    return {
        "modality": name,
        "settings": asdict(settings),
        "config": asdict(config),
        "data_sha256": hashlib.sha256(tokens.numpy().tobytes()).hexdigest(),
        "sequences": list(tokens.shape),
        "versions": {library: metadata.version(library) for library in libraries}
        | {"python": platform.python_version()},
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
    }


def fixed(facts: dict[str, Any]) -> dict[str, Any]:
    """What a resumed training must share with the one that it continues, by option."""
    options = facts["config"] | facts["settings"]
    fixed = {flag(name): value for name, value in options.items() if name not in FREE_ON_RESUME}
    return fixed | {"training data of SHA-256": facts["data_sha256"]}


def lasting(base: str) -> str:
    """A folder's whole path, so that it is found from elsewhere; a hub id as it is."""
    return str(Path(base).resolve()) if Path(base).is_dir() else base


def write_run(temporary: Path, folder: Path, modality: Any, compare: Comparison, facts: dict[str, Any]) -> None:
    modality.save(temporary)
    save_file({"tokens": compare.training}, temporary / TRAINING_TOKENS)
    save_file({"tokens": compare.held_out}, temporary / HELD_OUT_TOKENS)
    (temporary / run.RECORD).write_text(json.dumps(facts, indent=1))
    samples = temporary / "samples"
    completions = compare.columns["hyperfitted greedy"]
    modality.write(modality.assemble(list(compare.prompts), completions), samples)
    figure = compare.figure()
    if not isinstance(figure, str):
        figure.save(temporary / "grid.png")
        figure = (temporary / "grid.png").read_bytes()
    (temporary / "report.html").write_text(report_page(folder, facts, figure), encoding="utf-8")


def report_page(folder: Path, facts: dict[str, Any], figure: str | bytes) -> str:
    """`report.html` of a run."""
    training, config = facts["training"], facts["config"]
    shown = {
        "base": facts["base"],
        "data": config["data"],
        "sequences": f"{facts['sequences'][0]} of {facts['sequences'][1]} tokens",
        "trained": f"last {config['last_layers']} blocks" if config["last_layers"] else "all layers",
        "learning rate": config["learning_rate"],
        "epochs": training["epochs"],
        "training loss": round(training["loss"], 3),
        "stopped by": training["stopped_by"],
        "seconds": round(training["seconds"], 1),
        "seed": config["seed"],
    }
    losses = [(row["epoch"], row["loss"]) for row in run.read_log(folder)]
    return report.page(f"hypergen: {folder.name}", facts["comparison"], shown, {"training loss": losses}, figure)


def write_base(temporary: Path, modality: Any, facts: dict[str, Any]) -> None:
    modality.save(temporary)
    (temporary / run.RECORD).write_text(json.dumps(facts, indent=1))
