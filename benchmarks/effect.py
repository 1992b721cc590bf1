"""Does hyperfitting do what it promises here? One record a case: before/after table, time, ratio to a plain loop.

    python benchmarks/effect.py text-self text-stories image-self image-cifar10 --shared ../shared
    python benchmarks/effect.py stories260k fiction-6m --shared ../shared

Every case ends in `benchmarks/records/effect-CASE.json` and prints its table. Cases on other models than the embedded
ones also time a plain transformers loop on the same sequences: epochs of both alternate (ours, plain, plain, ours) in
this process. Prompts are texts or pictures that are in no training set.
Does not know: how anything works; it calls the public interface.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import hypergen
from hypergen import report
from hypergen.batches import batch_rows, steps_per_epoch
from hypergen.hyperfit import Plan, hyperfit

FICTION, HELD_OUT_FICTION = "data/fiction/train.jsonl", "data/fiction/test.jsonl"
PICTURES, HELD_OUT_PICTURES = "data/cifar10/train.zip", "data/cifar10/test.zip"
CASES: dict[str, dict[str, Any]] = {
    # Paths are below --shared. What a case leaves open comes from the embedded base's card.
    "text-self": {"modality": "text"},
    "text-stories": {"modality": "text", "data": "stories"},
    "image-self": {"modality": "image", "prompts": HELD_OUT_PICTURES, "held_out_samples": 128},
    "image-cifar10": {"modality": "image", "data": PICTURES, "prompts": HELD_OUT_PICTURES, "held_out_samples": 128},
    "stories260k": {
        "model": "models/stories260k",
        "data": FICTION,
        "prompts": HELD_OUT_FICTION,
        "num_samples": 64,
        "learning_rate": 1e-3,
        "epochs": 100,
    },
    "fiction-6m": {
        "model": "models/fiction-6m",
        "data": FICTION,
        "prompts": HELD_OUT_FICTION,
        "num_samples": 256,
        "learning_rate": 1e-3,
        "epochs": 12,
        "last_layers": 2,
    },
}
PAIRS = 2
RECORDED = ("config", "settings", "training", "comparison", "versions", "machine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--shared", type=Path, help="folder with data/ and models/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--records", type=Path, default=Path(__file__).parent / "records")
    arguments = parser.parse_args()
    for case in arguments.cases:
        records = [run_case(case, seed, arguments.shared) for seed in arguments.seeds]
        arguments.records.mkdir(exist_ok=True)
        (arguments.records / f"effect-{case}.json").write_text(json.dumps(records, indent=1) + "\n")


def run_case(case: str, seed: int, shared: Path | None) -> dict[str, Any]:
    """Fit once; return options, table, training facts and, where there is a plain loop, its ratio."""
    options = {name: _below(shared, value) for name, value in CASES[case].items()}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run = hypergen.fit(**options, seed=seed, output=f"{folder}/run")
        seconds = time.perf_counter() - started
        record = {
            "case": case,
            "seed": seed,
            "options": CASES[case],
            "seconds": seconds,
            **{
                name: run.record[name]
                for name in ("config", "settings", "training", "comparison", "versions", "machine")
            },
        }
        record["config"] |= {"model": CASES[case].get("model"), "output": None, "data": CASES[case].get("data", "self")}
        record["config"]["prompts"] = CASES[case].get("prompts")
        if "model" in options:
            record["plain"] = compare_with_plain(options["model"], run.tokens(), run.record)
    print(f"## {case}, seed {seed}: {seconds:.0f} s in all, {record['training']['seconds']:.0f} s training")
    print(report.markdown(record["comparison"], report.brief(record["comparison"])))
    print({name: record["training"][name] for name in ("loss", "epochs", "stopped_by")}, record.get("plain", ""))
    return record


def compare_with_plain(model: str, tokens: Tensor, record: dict[str, Any]) -> dict[str, float]:
    """Alternate epochs of both loops on equal terms: same sequences, batches, optimizer, precision, trained layers."""
    config = record["config"]
    per_epoch = steps_per_epoch(len(tokens), config["batch_size"])
    plain, optimizer = plain_model(model, config)
    ours = hypergen.load(model).modality.model

    def our_epochs(count: int) -> float:
        plan = Plan(
            steps=count * per_epoch,
            batch_size=config["batch_size"],
            learning_rate=config["learning_rate"],
            seed=0,
            last_layers=config["last_layers"],
        )
        started = time.perf_counter()
        hyperfit(ours, tokens, plan)
        return time.perf_counter() - started

    def plain_epoch() -> float:
        started = time.perf_counter()
        for step in range(per_epoch):
            batch = tokens[batch_rows(0, step, len(tokens), config["batch_size"])]
            plain(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - started

    ratios = []
    for pair in range(PAIRS):  # ours with and without one more epoch: what the cache costs once is not in an epoch
        first = plain_epoch() if pair % 2 else 0.0
        one, two = our_epochs(1), our_epochs(2)
        ratios.append(((first or plain_epoch()) / (two - one), one - (two - one)))
    ratio = statistics.median(ratio for ratio, _ in ratios)
    set_up = max(0.0, statistics.median(extra for _, extra in ratios))
    plain_seconds = plain_epoch()
    epochs = record["training"]["epochs"]
    whole = epochs * plain_seconds / (set_up + epochs * plain_seconds / ratio)
    return {"epoch_ratio": ratio, "set_up_seconds": set_up, "plain_epoch_seconds": plain_seconds, "whole_ratio": whole}


def plain_model(model: str, config: dict[str, Any]) -> tuple[Any, torch.optim.Optimizer]:
    """The control: transformers, fp32, AdamW without decay, the lower layers frozen where the case says so."""
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).train()
    last = config["last_layers"]
    if last:
        plain.requires_grad_(False)
        plain.model.layers[-last:].requires_grad_(True)
        plain.model.norm.requires_grad_(True)
    trained = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    return plain, torch.optim.AdamW(trained, lr=config["learning_rate"], weight_decay=0.0)


def _below(shared: Path | None, value: Any) -> Any:
    if not (isinstance(value, str) and value.startswith(("data/", "models/"))):
        return value
    if shared is None:
        raise SystemExit(f"{value}: give --shared, the folder that has it")
    return str(shared / value)


if __name__ == "__main__":
    main()
