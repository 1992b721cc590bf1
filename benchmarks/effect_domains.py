"""Measure a run of a real base on texts of several domains: the rows that people compare, sense beside diversity.

A high TTR alone says nothing: a model that quotes is diverse, and so is one that invents words. So overlap, the share
of known words and the loss under another model stand beside it; the last two are of the completion's text, so that
tokenizers do not matter.

Shape letters: N prompts, S completion.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import hypergen
from hypergen import registry
from hypergen.evaluation import baselines
from hypergen.evaluation.bootstrap import summaries
from hypergen.evaluation.comparison import Comparison
from hypergen.evaluation.judge import loss_under
from hypergen.modality import Modality
from hypergen.run import Run
from hypergen.text.modality import TextModality

DOMAINS = ("fiction", "wiki", "news")  # folders of data/, each with a test.jsonl
JUDGES = {"smollm2-135m": "gemma-3-270m", "gemma-3-270m": "smollm2-135m"}
NUM_PROMPTS = 32  # of a domain, the same for every seed
NUM_TEXTS = 12  # completions that the record keeps as text: those of the first prompts
NEW_TOKENS = 96  # S: TTR is over 96 tokens in arXiv 2412.04318

Domain = dict[str, Any]


def measure_domains(run: Run, base: str, shared: Path, seed: int) -> dict[str, Domain]:
    """Compare base greedy, base top-p, hyperfitted greedy and the originals on test texts of each domain.

    Args:
        run: the hyperfitted model.
        base: name of the model before.
        shared: folder with data/.
        seed: of top-p sampling and of the intervals.

    Returns:
        domain -> `rows` (name, and mean and interval of each metric) and `completions` (texts by row, and `prompts`).
    """
    before = run.modality.with_model(cast(TextModality, hypergen.load(base).modality).model)
    judge = hypergen.load(JUDGES[base]).modality
    return {domain: _measure(run, before, judge, shared / "data" / domain / "test.jsonl", seed) for domain in DOMAINS}


def _measure(run: Run, before: Modality, judge: Modality, texts: Path, seed: int) -> Domain:
    """Decode and measure the four rows on one domain."""
    # 1. The prompts: beginnings of test texts, drawn once for all seeds.
    items = registry.adapter("text").read(source=str(texts), settings=run.modality.settings, skip_bad=0)
    held_out = run.modality.encode_held_out(items, count=NUM_PROMPTS, seed=0).tokens

    # 2. The rows.
    compare = Comparison(before, run.tokens(), held_out, num_new=NEW_TOKENS, seed=seed)
    of_base, of_run = baselines.fit_baselines(seed)
    compare.add_all(of_base)
    for row in of_run:
        compare.add(row.name, row.decoding, model=run.modality.model, describe_model=row.describes)
    compare.add_original(baselines.ORIGINAL)

    # 3. How each row's texts read to the other model.
    prompts, completions = add_judge_loss(compare, judge)
    shown = {name: rendered[:NUM_TEXTS] for name, rendered in completions.items()}
    return {"rows": compare.records, "completions": {"prompts": prompts[:NUM_TEXTS], **shown}}


def add_judge_loss(compare: Comparison, judge: Modality) -> tuple[list[str], dict[str, list[str]]]:
    """Add `judge_loss` to each row's record, and return the texts of the prompts and, by row, of the completions."""
    modality = compare.modality
    prompts = [modality.decode(prompt[None])[0] for prompt in compare.prompts]
    completions = {name: modality.render(list(compare.prompts), ids) for name, ids in compare.columns.items()}
    for row in compare.records:
        losses = loss_under(judge, prompts, completions[row["name"]])
        row["values"] |= summaries({"judge_loss": losses}, compare.seed)
    return prompts, completions
