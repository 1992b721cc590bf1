"""Compare two text bases before and after hyperfitting on own samples, in words and characters.

    python benchmarks/base_comparison.py OLD NEW --held-out ../shared/data/fiction/test.jsonl --seeds 0 1 2

Tokenizers differ, so nothing is counted in tokens: prompts end at the same place of the same text, completions are cut
to the same number of words, repetition, TTR and overlap are of words, the held-out loss is per character. Each base is
fitted by the recipe of its card. The record is `benchmarks/records/base-comparison.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import hypergen
from hypergen import registry
from hypergen.config import DecodingConfig
from hypergen.evaluation import baselines
from hypergen.evaluation.bootstrap import summaries
from hypergen.evaluation.diversity import repetition_values, ttr_values
from hypergen.evaluation.judge import loss_under
from hypergen.evaluation.overlap import longest_overlap
from hypergen.run import Run
from hypergen.text.config import Settings
from hypergen.text.known_words import whole_words, words_of
from hypergen.text.modality import TextModality
from hypergen.text.word_list import read_words

NUM_PROMPTS = 128
PROMPT_WORDS, COMPLETION_WORDS = 24, 60
NEW_TOKENS = 128  # of either tokenizer: more than 60 words
PASSAGE = 700  # characters of a held-out text whose loss is measured
HEADS = {
    "unknown_words": "unknown words",
    "rep_4": "rep-4 (words)",
    "ttr": "TTR (words)",
    "overlap": "overlap (words)",
    "loss": "held-out loss, nats a character",
}


def main() -> None:
    """Measure what is not recorded, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bases", type=Path, nargs="*", help="folders; without them the record is printed")
    parser.add_argument("--held-out", type=Path, help="texts that no base was trained on")
    parser.add_argument("--words", type=Path, help="word list that decides what is unknown, the same for all bases")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "base-comparison.json")
    arguments = parser.parse_args()
    record = json.loads(arguments.record.read_text()) if arguments.record.exists() else {}
    if arguments.bases:
        words = read_words(arguments.words)
        texts = registry.adapter("text").read(source=str(arguments.held_out), settings=Settings(), skip_bad=0)
        passages = beginnings([str(text) for text in texts])
        for base in arguments.bases:
            record[base.name] = measure(base, passages, words, arguments.seeds)
            arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record))


def beginnings(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Cut passages out of the texts, spread evenly: a prompt of some words, and what follows it in the original."""
    found = []
    each = -(-NUM_PROMPTS // len(texts))
    for text in texts:
        for number in range(each):
            words = text[len(text) * number // each :][: 2 * PASSAGE].split()[1:]  # the first may be cut
            if len(words) > PROMPT_WORDS + COMPLETION_WORDS + 1:
                found.append((" ".join(words[:PROMPT_WORDS]), " " + " ".join(words[PROMPT_WORDS:])))
    return found[:NUM_PROMPTS]


def measure(folder: Path, passages: list[tuple[str, str]], words: frozenset[str], seeds: Sequence[int]) -> Any:
    """Measure a base once and, for each seed, the run that its card's recipe makes of it."""
    base = hypergen.load(folder)
    prompts = [prompt for prompt, _ in passages]
    originals = [original[:PASSAGE] for _, original in passages]
    loss = loss_under(base.modality, prompts, originals)
    parameters = sum(weight.numel() for weight in base.modality.model.parameters())
    rows: dict[str, Any] = {}
    times = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as temporary:
            started = time.perf_counter()
            run = hypergen.fit(model=str(folder), seed=seed, output=f"{temporary}/run", measure_every=0)
            times.append(time.perf_counter() - started)
            training = run.modality.render([run.tokens()[0][:0]] * len(run.tokens()), run.tokens())
        of_base, of_run = baselines.fit_baselines(seed)
        columns = {
            **{row.name: complete(base, prompts, row.decoding) for row in of_base},
            **{row.name: complete(run, prompts, row.decoding) for row in of_run},
            baselines.ORIGINAL: originals,
        }
        for name, completions in columns.items():
            rows.setdefault(name, []).append(in_words(prompts, completions, training, words))
    joined = {name: {one: torch.cat([part[one] for part in parts]) for one in parts[0]} for name, parts in rows.items()}
    return {
        "parameters": parameters,
        "vocabulary": base.modality.model.num_tokens,
        "seeds": list(seeds),
        "fit_seconds": times,
        "loss": summaries({"loss": loss}, 0)["loss"],
        "rows": {name: summaries(values, 0) for name, values in joined.items()},
    }


def complete(run: Run, prompts: Sequence[str], decoding: DecodingConfig) -> list[str]:
    """Continue each prompt; a text is what follows it."""
    modality = cast(TextModality, run.modality)
    rows = [modality.encode_prompt(prompt) for prompt in prompts]
    return modality.render(rows, run.complete(rows, decoding, NEW_TOKENS))


def in_words(
    prompts: Sequence[str], completions: Sequence[str], training: Sequence[str], known: frozenset[str]
) -> dict[str, Tensor]:
    """Measure completions (B) by their first whole words: name -> (B,)."""
    numbers = dict[str, int]()
    counter = count()

    def ids(words: Sequence[str]) -> Tensor:
        return torch.tensor([numbers.setdefault(word, next(counter)) for word in words])

    words = [whole_words(*pair)[:COMPLETION_WORDS] for pair in zip(prompts, completions, strict=True)]
    rows = [ids(some) for some in words]
    trained = [ids(words_of(text)) for text in training]
    mask = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in trained], batch_first=True)
    overlap = longest_overlap(rows, pad_sequence(trained, batch_first=True), mask)
    unknown = [sum(word not in known for word in some) / len(some) for some in words]
    return {
        "unknown_words": torch.tensor(unknown, dtype=torch.float64),
        "rep_4": repetition_values(rows, 4),
        "ttr": ttr_values(rows, COMPLETION_WORDS),
        "overlap": overlap.double(),
    }


def table(record: dict[str, Any]) -> str:
    """Print the record as Markdown."""
    lines = ["| base | row | " + " | ".join(HEADS.values()) + " |", "|---|---|" + "--:|" * len(HEADS)]
    for name, base in record.items():
        for row, values in base["rows"].items():
            values = values | ({"loss": base["loss"]} if row == baselines.BASE_GREEDY else {})
            numbers = [_number(values.get(one)) for one in HEADS]
            lines.append(f"| {name}, {base['parameters'] / 1e6:.1f} M | {row} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def _number(value: dict[str, float] | None) -> str:
    if value is None or math.isnan(value["mean"]):  # completions too short for an n-gram
        return ""
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


if __name__ == "__main__":
    main()
