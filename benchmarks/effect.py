"""Measure the effect of hyperfitting: one record a case, with before/after table, time, and ratio to a plain loop.

    python benchmarks/effect.py text-self text-stories image-self image-cifar10 --shared ../shared
    python benchmarks/effect.py stories260k fiction-6m --shared ../shared
    python benchmarks/effect.py smollm2-135m gemma-3-270m --shared ../shared --seeds 0 1 2

Every case ends in `benchmarks/records/effect-CASE.json` and prints its table. The name of a real base stands for its
two cases, own samples and fiction, measured on three domains (`effect_domains.py`): each seed runs in a process of its
own, whose peak memory is recorded, and is written as it ends; a seed that is recorded with today's recipe is skipped.
Cases on small models of others also time a plain transformers loop on the same sequences (protocol:
`paired_timing.py`). Prompts are texts or pictures that are in no training set. Without a case the records are printed
as tables.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from effect_domains import measure_domains
from paired_timing import time_pair
from speed_training import FrozenLoop, OurTraining
from torch import Tensor

import hypergen
from hypergen import registry
from hypergen.evaluation.baselines import HYPERFITTED_GREEDY
from hypergen.report.columns import Columns
from hypergen.report.markdown import markdown
from hypergen.text import named_bases
from hypergen.text.model import TextModel

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
    "smollm2-135m-self": {"model": "smollm2-135m", "prompts": HELD_OUT_FICTION},
    "smollm2-135m-fiction": {"model": "smollm2-135m", "data": FICTION, "prompts": HELD_OUT_FICTION},
    "gemma-3-270m-self": {"model": "gemma-3-270m", "prompts": HELD_OUT_FICTION},
    "gemma-3-270m-fiction": {"model": "gemma-3-270m", "data": FICTION, "prompts": HELD_OUT_FICTION},
}
NAMES = {
    "text-self": "embedded text base, own samples",
    "text-stories": "embedded text base, stories",
    "stories260k": "stories260k, 64 fiction sequences",
    "fiction-6m": "fiction-6m, 256 fiction sequences, last 2 of 6 blocks",
    "smollm2-135m-self": "SmolLM2-135M-Instruct, own samples",
    "smollm2-135m-fiction": "SmolLM2-135M-Instruct, fiction",
    "gemma-3-270m-self": "Gemma 3 270M, own samples",
    "gemma-3-270m-fiction": "Gemma 3 270M, fiction",
    "image-self": "embedded image base, own samples",
    "image-cifar10": "embedded image base, 500 CIFAR-10 pictures",
}
ROUNDS = 5
SHOWN = ("ttr", "overlap_mean", "overlap_over_10")
HEADS_OF_DOMAINS = {
    "rep_4": "rep-4",
    "ttr": "TTR",
    "overlap_mean": "overlap mean",
    "overlap_over_10": "overlap > 10",
    "known_words": "known words",
    "judge_loss": "loss under the other model",
    "entropy": "entropy",
    "top1_probability": "top-1",
}
RECORDED = ("config", "settings", "training", "comparison", "versions", "machine")


REAL_BASES = ("smollm2-135m", "gemma-3-270m")
GROUPS = {base: [f"{base}-self", f"{base}-fiction"] for base in REAL_BASES}


def main() -> None:
    """Run the cases of the command line, or print what is recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*GROUPS, *CASES, []])
    parser.add_argument("--shared", type=Path, help="folder with data/ and models/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--records", type=Path, default=Path(__file__).parent / "records")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # what a child process does
    arguments = parser.parse_args()
    if not arguments.cases:
        print(tables(arguments.records))
    for case in [one for name in arguments.cases for one in GROUPS.get(name, [name])]:
        if arguments.one:
            record = run_case(case, arguments.seeds[0], arguments.shared)
            arguments.records.write_text(json.dumps(record))
        elif CASES[case].get("model") in REAL_BASES:
            measure_seeds(case, arguments.seeds, arguments.shared, arguments.records)
        else:
            write_records(arguments.records, case, [run_case(case, seed, arguments.shared) for seed in arguments.seeds])


def measure_seeds(case: str, seeds: Sequence[int], shared: Path | None, folder: Path) -> None:
    """Measure each seed in a process of its own and record it as it ends; skip what is recorded with this recipe."""
    path = folder / f"effect-{case}.json"
    records = json.loads(path.read_text()) if path.exists() else []
    records = [record for record in records if record["recipe"] == recipe(case)]
    for seed in seeds:
        if any(record["seed"] == seed for record in records):
            print(f"{case}, seed {seed}: recorded already")
            continue
        with tempfile.TemporaryDirectory() as temporary:
            result = Path(temporary) / "record.json"
            command = [sys.executable, __file__, case, "--seeds", str(seed), "--records", str(result), "--one"]
            subprocess.run([*command, *(["--shared", str(shared)] if shared else [])], check=True)
            records.append(json.loads(result.read_text()))
        write_records(folder, case, sorted(records, key=lambda record: record["seed"]))


def write_records(folder: Path, case: str, records: list[dict[str, Any]]) -> None:
    """Write the records of a case, one a seed."""
    folder.mkdir(exist_ok=True)
    (folder / f"effect-{case}.json").write_text(json.dumps(records, indent=1) + "\n")


def recipe(case: str) -> dict[str, Any]:
    """Return the recipe in the card of the case's named base."""
    fit = named_bases.card(CASES[case]["model"])["fit"]
    return dict(fit["data" if "data" in CASES[case] else "self"])


def run_case(case: str, seed: int, shared: Path | None) -> dict[str, Any]:
    """Fit once; return options, table, training facts and, by the base, its domains or the plain loop's ratio."""
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
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            **{name: run.record[name] for name in RECORDED},
        }
        record["config"] |= {"model": CASES[case].get("model"), "output": None, "data": CASES[case].get("data", "self")}
        record["config"]["prompts"] = CASES[case].get("prompts")
        if options.get("model") in REAL_BASES:
            record["recipe"] = recipe(case)
            record["domains"] = measure_domains(run, options["model"], _required(shared), seed)
            record["completions"] = record["domains"]["fiction"].pop("completions")
        elif "model" in options:
            record["plain"] = compare_with_plain(options["model"], run.tokens(), run.record)
    print(f"## {case}, seed {seed}: {seconds:.0f} s in all, {record['training']['seconds']:.0f} s training")
    rows, columns = record["comparison"], Columns.of(registry.adapter(record["config"]["modality"]).METRICS)
    print(markdown(rows, columns, columns.brief(rows)))
    print({name: record["training"][name] for name in ("loss", "epochs", "stopped_by")}, record.get("plain", ""))
    return record


def compare_with_plain(model: str, tokens: Tensor, record: dict[str, Any]) -> dict[str, Any]:
    """Time steps of both loops in turn on equal terms: same sequences, batches, optimizer, precision, layers."""
    config = record["config"]
    wrapped = cast(TextModel, hypergen.load(model, device="cpu").modality.model)
    precision = record["training"]["precision"]
    ours = OurTraining(wrapped, tokens, config["last_layers"], precision)
    compared = time_pair(ours, FrozenLoop(wrapped, tokens, config["last_layers"], precision), ROUNDS)
    steps = record["training"]["steps"]
    whole = steps * compared["their_seconds"] / (ours.set_up + steps * compared["seconds"])
    return {"step": compared, "set_up_seconds": ours.set_up, "whole_ratio": whole}


def tables(folder: Path) -> str:
    """Print the records as Markdown, one table for each modality."""
    rows: dict[str, list[str]] = {"text": [], "image": []}
    for case in CASES:
        path = folder / f"effect-{case}.json"
        if path.exists() and CASES[case].get("model") not in REAL_BASES:
            records = json.loads(path.read_text())
            modality = records[0]["config"]["modality"]
            rows[modality] += _table_rows(records, "rows_copied" if modality == "image" else "rep_4")
    heads = ("TTR", "overlap mean", "overlap > 10", "{}", "training loss", "slowest fit, s")
    parts = []
    for modality, last in (("text", "rep-4"), ("image", "rows copied")):
        titles = " | ".join(("base, training set, seeds", "decoding", *heads)).format(last)
        parts.append("\n".join([f"| {titles} |", "|---|---|" + "--:|" * len(heads), *rows[modality]]))
    return "\n\n".join([*parts, *_real_tables(folder)])


def _real_tables(folder: Path) -> list[str]:
    """Print what is recorded of the real bases: a line a training, then a line a domain and decoding."""
    files = [folder / f"effect-{case}.json" for cases in GROUPS.values() for case in cases]
    recorded = [json.loads(path.read_text()) for path in files if path.exists()]
    if not recorded:
        return []
    fits = ["base, training set, seeds", "sequences", "last blocks", "rate", "epochs", "loss", "slowest, s", "peak, MB"]
    lines = [_row(fits), "|---|" + "--:|" * (len(fits) - 1), *map(_fit_row, recorded)]
    heads = ["base, training set, seeds", "prompts", "decoding", *HEADS_OF_DOMAINS.values()]
    rows = [row for records in recorded for row in _domain_rows(records)]
    return ["\n".join(lines), "\n".join([_row(heads), "|---|---|---|" + "--:|" * len(HEADS_OF_DOMAINS), *rows])]


def _fit_row(records: list[dict[str, Any]]) -> str:
    """Print the recipe of a real base's case, and what its trainings took."""
    chosen = [f"{records[0]['recipe'][name]}" for name in ("num_samples", "last_layers", "learning_rate", "epochs")]
    loss = _number([{"mean": record["training"]["loss"]} for record in records])
    most = [f"{max(record[name] for record in records):.0f}" for name in ("seconds", "peak_mb")]
    return _row([_title(records), *chosen, loss, *most])


def _domain_rows(records: list[dict[str, Any]]) -> list[str]:
    """Print one line a domain and decoding, with the records of several seeds together."""
    lines = []
    for domain in records[0]["domains"]:
        for number, row in enumerate(records[0]["domains"][domain]["rows"]):
            values = [record["domains"][domain]["rows"][number]["values"] for record in records]
            cells = [_number([one.get(name) for one in values]) for name in HEADS_OF_DOMAINS]
            lines.append(_row([_title(records), domain, row["name"], *cells]))
    return lines


def _title(records: list[dict[str, Any]]) -> str:
    return f"{NAMES[records[0]['case']]}; {', '.join(str(record['seed']) for record in records)}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table_rows(records: list[dict[str, Any]], repeated: str) -> list[str]:
    """Print one line a decoding, with the records of several seeds together."""
    rows, seeds = [], ", ".join(str(record["seed"]) for record in records)
    for number, row in enumerate(records[0]["comparison"]):
        values = [record["comparison"][number]["values"] for record in records]
        cells = [_number([one.get(name) for one in values]) for name in (*SHOWN, repeated)]
        is_ours = row["name"] == HYPERFITTED_GREEDY
        losses = [{"mean": record["training"]["loss"]} for record in records]
        slowest = f"{max(record['seconds'] for record in records):.0f}"
        cells += [_number(losses), slowest] if is_ours else ["", ""]
        rows.append(f"| {NAMES[records[0]['case']]}; {seeds} | {row['name']} | {' | '.join(cells)} |")
    return rows


def _number(values: Sequence[dict[str, float] | None]) -> str:
    """Print a mean and its 95 % interval over the prompts; of several seeds the mean, the lowest and the highest."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    means = [value["mean"] for value in known]
    ends = (min(means), max(means)) if len(means) > 1 else (known[0].get("low"), known[0].get("high"))
    interval = "" if None in ends else f" [{ends[0]:.3f}, {ends[1]:.3f}]"
    return f"{sum(means) / len(means):.3f}{interval}"


def _below(shared: Path | None, value: Any) -> Any:
    if not (isinstance(value, str) and value.startswith(("data/", "models/"))):
        return value
    if shared is None:
        raise SystemExit(f"{value}: give --shared, the folder that has it")
    return str(shared / value)


def _required(shared: Path | None) -> Path:
    if shared is None:
        raise SystemExit("give --shared, the folder with data/")
    return shared


if __name__ == "__main__":
    main()
