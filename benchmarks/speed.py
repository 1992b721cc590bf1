"""Tokens a second and peak memory of fit and generate, beside transformers on the same model and prompts.

    python benchmarks/speed.py [--model FOLDER] [--modality text] [--pairs 5]

Measurements alternate (ours, theirs, theirs, ours), each after one warm-up; the ratio is the median over pairs, and a
control (ours against ours) shows the noise. Ids must be equal, else the ratio is not printed.
Does not know: other ways to be fast; it calls the public interface.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import hypergen
from hypergen.hyperfit import Plan, hyperfit
from hypergen.resolve import embedded_base

PROMPT, NEW = 32, 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", default="text", choices=("text", "image"))
    parser.add_argument("--model", help="a folder; by default the embedded base")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--records", type=Path, default=Path(__file__).parent / "records")
    arguments = parser.parse_args()
    run = hypergen.load(arguments.model or embedded_base(arguments.modality), device="cpu")
    record = {
        "model": arguments.model or f"{arguments.modality}-base",
        "threads": torch.get_num_threads(),
        "generate": [generation(run, rows, arguments.pairs) for rows in (1, 8, 32)],
        "fit": [training(run, layers) for layers in (0, 2, 1)],
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(record, indent=1))
    arguments.records.mkdir(exist_ok=True)
    name = Path(record["model"]).name
    (arguments.records / f"speed-{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def generation(run: Any, rows: int, pairs: int) -> dict[str, Any]:
    """Greedy continuation of random prompts, ours beside `generate` of transformers where the model has one."""
    modality = run.modality
    prompt_length = len(modality.prompts(torch.zeros(1, modality.sequence_length, dtype=torch.long))[0]) - 1
    prompt = torch.randint(
        1, modality.model.num_tokens - 1, (rows, prompt_length), generator=torch.Generator().manual_seed(0)
    )
    new = min(NEW, modality.max_new_tokens(prompt_length + 1))

    def ours() -> torch.Tensor:
        return run.generate_tokens(prompt, max_new_tokens=new, stop_at_end=False)

    theirs = their_generate(run, prompt, new)
    record: dict[str, Any] = {"rows": rows, "new_tokens": new}
    seconds, control = [], []
    ratios = []
    same = theirs is None or bool(torch.equal(ours(), theirs()))
    for _ in range(pairs):
        first = timed(ours)
        if theirs is not None:
            ratios.append((timed(theirs) + timed(theirs)) / (first + (second := timed(ours))))
        else:
            second = timed(ours)
        seconds += [first, second]
        control.append(first / second)
    record |= {"tokens_per_second": rows * new / statistics.median(seconds), "control": statistics.median(control)}
    record["same_ids"] = same
    if ratios and same:
        record["times_transformers_generate"] = statistics.median(ratios)
    return record


def their_generate(run: Any, prompt: torch.Tensor, new: int) -> Callable[[], torch.Tensor] | None:
    """`generate` of transformers on the same weights and ids; None where the model has none (pictures)."""
    causal = getattr(run.modality.model, "causal", None)
    if causal is None:
        return None
    ids = run.modality.begin(prompt)
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "attention_mask": torch.ones_like(ids)}

    def theirs() -> torch.Tensor:
        with torch.inference_mode():
            return causal.generate(ids, suppress_tokens=None, eos_token_id=None, **options)[:, ids.shape[1] :]

    return theirs


def training(run: Any, last_layers: int) -> dict[str, Any]:
    """Two epochs over 64 random sequences."""
    modality = run.modality
    length = modality.sequence_length
    tokens = torch.randint(1, modality.model.num_tokens - 1, (64, length), generator=torch.Generator().manual_seed(1))
    plan = Plan(steps=16, batch_size=8, learning_rate=1e-4, seed=0, last_layers=last_layers)
    result = hyperfit(modality.model, tokens, plan)
    return {"last_layers": last_layers, "tokens_per_second": result.tokens_per_second, "cached": result.cached}


def timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
