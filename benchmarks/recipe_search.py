"""Search the recipe of a real base: train one candidate, and measure it every few epochs on validation texts.

    python benchmarks/recipe_search.py smollm2-135m --shared ../shared --recipe learning_rate=2e-4 epochs=9
    python benchmarks/recipe_search.py smollm2-135m                       # prints what is recorded

What a candidate leaves open comes from the base's card. A trial is recorded as it ends, in
`benchmarks/records/recipes-BASE.json`, and skipped where it is recorded. Prompts are the beginnings of validation
texts: the test texts are for `effect.py`, which measures what was chosen.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from effect_domains import JUDGES, NEW_TOKENS, add_judge_loss

import hypergen
from hypergen import registry
from hypergen.config import OWN, FitConfig
from hypergen.decoding.self_samples import sample_training_set
from hypergen.evaluation import baselines
from hypergen.evaluation.comparison import Comparison
from hypergen.options import ResolvedFit, fit_plan, fit_recipe
from hypergen.text import named_bases
from hypergen.text.config import Settings
from hypergen.training.loop import hyperfit
from hypergen.training.plan import EpochMetrics, TrainingHooks

DATA = {OWN: OWN, "fiction": "data/fiction/train.jsonl"}
VALIDATION = "data/fiction/validation.jsonl"
NUM_PROMPTS = 32
SHOWN = ("rep_4", "ttr", "overlap_mean", "overlap_over_10", "known_words", "judge_loss")


def main() -> None:
    """Run the trial of the command line, or print what is recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", choices=JUDGES)
    parser.add_argument("--shared", type=Path, help="folder with data/")
    parser.add_argument("--data", default="fiction", choices=DATA)
    parser.add_argument("--recipe", nargs="*", default=[], metavar="NAME=VALUE", help="in place of the card's values")
    parser.add_argument("--every", type=int, default=2, help="epochs between two measurements")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--records", type=Path, default=Path(__file__).parent / "records")
    arguments = parser.parse_args()
    path = arguments.records / f"recipes-{arguments.base}.json"
    trials = json.loads(path.read_text()) if path.exists() else []
    if arguments.shared is not None:
        changes = {name: json.loads(value) for name, value in (one.split("=") for one in arguments.recipe)}
        recipe = fit_recipe(named_bases.card(arguments.base), arguments.data) | changes
        asked = {"data": arguments.data, "seed": arguments.seed, "every": arguments.every, "recipe": recipe}
        if all(asked != {name: trial[name] for name in asked} for trial in trials):
            trials.append(asked | {"rows": try_recipe(arguments.base, arguments.shared, **asked)})
            path.write_text(json.dumps(trials, indent=1) + "\n")
    print("\n\n".join(map(table, trials)))


def try_recipe(
    base: str, shared: Path, *, data: str, seed: int, every: int, recipe: dict[str, Any]
) -> list[dict[str, Any]]:
    """Train as `fit` does, and return the rows of the base, of every few epochs and of the originals."""
    # 1. The base, the options and the sequences.
    settings = Settings(sequence_length=recipe["sequence_length"])
    modality = hypergen.load(base, sequence_length=recipe["sequence_length"]).modality
    resolved = ResolvedFit.of(FitConfig(model=base, data=DATA[data], seed=seed), "text", recipe)
    texts = {
        name: registry.adapter("text").read(source=str(shared / path), settings=settings, skip_bad=0)
        for name, path in (DATA | {"validation": VALIDATION}).items()
        if path != OWN
    }
    if data == OWN:
        tokens = sample_training_set(modality, resolved.num_samples, seed=seed, purpose="training")
    else:
        tokens = modality.encode_training(texts[data], count=resolved.num_samples, seed=seed).tokens
    held_out = modality.encode_held_out(texts["validation"], count=NUM_PROMPTS, seed=0).tokens

    # 2. Before, then while it trains, each row with the loss and accuracy of its epoch.
    compare = Comparison(modality, tokens, held_out, num_new=NEW_TOKENS, seed=seed)
    compare.add_all(baselines.fit_baselines(seed)[0])
    facts: dict[str, dict[str, float]] = {}

    def on_epoch(epoch: int, metrics: EpochMetrics) -> None:
        if epoch % every == 0 or epoch == resolved.epochs:
            facts[f"epoch {epoch}"] = {"training_loss": metrics.loss, "training_accuracy": metrics.accuracy}
            compare.add(f"epoch {epoch}", baselines.GREEDY, describe_model=True)
            print(_line(compare.records[-1] | facts[f"epoch {epoch}"]), flush=True)

    hyperfit(modality.model, tokens, fit_plan(resolved, len(tokens)), TrainingHooks(on_epoch=on_epoch))
    compare.add_original(baselines.ORIGINAL)
    add_judge_loss(compare, hypergen.load(JUDGES[base]).modality)
    return [row | facts.get(row["name"], {}) for row in compare.records]


def table(trial: dict[str, Any]) -> str:
    """Print one trial as Markdown."""
    chosen = ", ".join(f"{name} {value}" for name, value in trial["recipe"].items())
    lines = [f"{trial['data']}, seed {trial['seed']}: {chosen}", ""]
    lines += [f"| row | training loss | {' | '.join(SHOWN)} |", "|---|--:|" + "--:|" * len(SHOWN)]
    return "\n".join([*lines, *map(_line, trial["rows"])])


def _line(row: dict[str, Any]) -> str:
    loss = f"{row['training_loss']:.3f}" if "training_loss" in row else ""
    values = [row["values"].get(name) for name in SHOWN]
    numbers = ["" if value is None else f"{value['mean']:.3f}" for value in values]
    return f"| {row['name']} | {loss} | {' | '.join(numbers)} |"


if __name__ == "__main__":
    main()
