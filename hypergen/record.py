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
from hypergen.scrub import scrub

FREE_ON_RESUME = {"output", "resume", "device", "checkpoint_every", "skip_bad", "allow_pickle_weights"}


def facts_of(
    name: str, config: FitConfig | PretrainConfig, settings: Any, tokens: Tensor, device: torch.device
) -> dict[str, Any]:
    """What `hypergen.json` records."""
    libraries = ("hypergen", "torch", "transformers", "diffusers", "safetensors")
    facts = {
        "modality": name,
        "settings": asdict(settings),
        "config": asdict(config),
        "data_sha256": sha256(tokens),
        "sequences": list(tokens.shape),
        "versions": {library: metadata.version(library) for library in libraries}
        | {"python": platform.python_version()},
        "machine": {
            "device": device_name(device),
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
        },
    }
    return scrub(facts)


def fixed(config: FitConfig | PretrainConfig, settings: Any) -> dict[str, Any]:
    """What a resumed training must share with the one that it continues, by option."""
    options = asdict(config) | asdict(settings)
    return scrub({flag(name): value for name, value in options.items() if name not in FREE_ON_RESUME})


def fixed_data(pixels_or_tokens: Tensor) -> dict[str, str]:
    """The same for the data of a training."""
    return {"training data of SHA-256": sha256(pixels_or_tokens)}


def fixed_weights(model: Any, last_layers: int) -> dict[str, str]:
    """The same for what is not trained and so not in a checkpoint either: the weights below the last layers.

    Those that stay in files (`--offload`) are not read for this: of such a model the embedding speaks for the rest.
    """
    if not last_layers:
        return {}
    trained = {id(weight) for part in (*model.blocks[-last_layers:], *model.tail) for weight in part.parameters()}
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        if id(weight) not in trained and not weight.is_meta:
            digest.update(name.encode())
            digest.update(weight.detach().cpu().flatten().view(torch.uint8).numpy())
    return {"frozen weights of SHA-256": digest.hexdigest()}


def sha256(values: Tensor) -> str:
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def machine(device: torch.device) -> dict[str, Any]:
    """What the last bits of a training depend on besides its options (pytorch/pytorch#88718)."""
    return {
        "device": device_name(device),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def lasting(base: str) -> str:
    """A folder's whole path, so that it is found from elsewhere; a hub id as it is."""
    return scrub(str(Path(base).resolve()) if Path(base).is_dir() else base)


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
        "compared": facts["compared"],
        "made with": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
    }
    curves = report.curves([{"epoch": 0} | facts["look_before"], *run.read_log(folder)])
    return report.page(f"hypergen: {folder.name}", facts["comparison"], shown, curves, figure)


def write_base(temporary: Path, modality: Any, facts: dict[str, Any]) -> None:
    modality.save(temporary)
    (temporary / run.RECORD).write_text(json.dumps(facts, indent=1))
