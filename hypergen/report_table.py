"""Which columns a table of records has and what each cell says; Markdown, terminal and page show the same.

The one place where a measure gets its head and its meaning, and where the rule lives that diversity is never shown
without overlap. Imports only the standard library.
Does not know: how a table is drawn, or how a number was measured.

A record is one row: {"name": "base greedy", "values": {"ttr": {"mean": 0.2, "low": 0.1, "high": 0.3}, ...}}. `low` and
`high`, a 95 % bootstrap interval, may be missing; a value may be absent or nan.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Records = Sequence[Mapping[str, Any]]

NAME_HEAD = "model and decoding"
MISSING = "-"
INTERVAL_MEANING = "95 % bootstrap interval of the mean over prompts; without width where all prompts gave the same"
DROPPED = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufffe\uffff")  # reorder text, or break XML


class Measure(NamedTuple):
    head: str
    meaning: str
    is_count: bool = False
    decimals: int = 3
    """Of the mean and of its interval: ends cut to fewer would overlap in print where they do not."""


MEASURES: dict[str, Measure] = {
    # Every known name, in the order of the columns; the definitions stand where each is computed.
    "ttr": Measure("TTR", "different tokens / tokens, over the last 96 tokens of a completion"),
    "overlap_mean": Measure(
        "overlap mean", "longest run of tokens shared with the training set, mean over completions"
    ),
    "overlap_max": Measure("overlap max", "the longest such run of any completion, in tokens", is_count=True),
    "overlap_over_10": Measure("overlap > 10", "share of completions with such a run of more than 10 tokens"),
    "mattr": Measure("MATTR", "different tokens / tokens, mean over all windows of 50 tokens"),
    **{f"rep_{n}": Measure(f"rep-{n}", f"share of {n}-token runs that repeat within a completion") for n in (2, 3, 4)},
    **{
        f"distinct_{n}": Measure(f"distinct-{n}", f"different {what} / {what}, over all completions together")
        for n, what in enumerate(("tokens", "2-token runs", "3-token runs", "4-token runs"), 1)
    },
    "self_bleu": Measure(
        "self-BLEU", "BLEU of a text with the other completions as references, 0 to 100; low is varied", decimals=1
    ),
    "dataset_bleu": Measure(
        "dataset BLEU", "BLEU of a text with all training texts as references, 0 to 100; high quotes", decimals=1
    ),
    "mauve": Measure("MAUVE", "likeness of the completed and the original texts as two sets, 0 to 1; high is alike"),
    "rows_copied": Measure("rows copied", "share of completed rows that equal the row above"),
    "codes_equal_above": Measure("codes equal above", "share of completed codes that equal the code above"),
    "patches_repeated": Measure("rep-2x2", "share of patches of 2 x 2 codes that repeat within a completion"),
    "run_longest": Measure("longest run", "most equal codes in a row, in the order of generation", True, 1),
    "run_mean": Measure("mean run", "completed codes / runs of equal codes; 1 where no code follows itself"),
    "codebook_use": Measure("codes used", "share of the code book that occurs in all completions together"),
    "codebook_perplexity": Measure(
        "code perplexity", "exp(entropy of the codes of all completions): codes used as if equally often", decimals=1
    ),
    "kid": Measure("KID", "kernel distance of completed to original pictures as two sets; 0 is alike"),
    "fid": Measure("FID", "Frechet distance of completed to original pictures as two sets; 0 is alike"),
    "precision": Measure("precision", "share of completed pictures that lie among the original ones"),
    "recall": Measure("recall", "share of original pictures that lie among the completed ones"),
    "nearest_training": Measure(
        "nearest training", "distance to the nearest training picture, RMS grey levels of 255; 0 is a copy", decimals=1
    ),
    "train_loss": Measure("training loss", "mean cross-entropy on the training sequences, nats per token"),
    "loss": Measure("held-out loss", "mean cross-entropy on sequences never trained on, nats per token"),
    "perplexity": Measure("perplexity", "exp(held-out loss)", decimals=1),
    "entropy": Measure("entropy", "of the predicted next-token distributions, nats; low is sure"),
    "top1_probability": Measure("top-1", "mean probability of the most likely token"),
    "top3_probability": Measure("top-3", "mean probability of the 3 most likely tokens together"),
    "top5_probability": Measure("top-5", "mean probability of the 5 most likely tokens together"),
    "agreement": Measure("agreement", "share of held-out positions where model and base find the same token likeliest"),
    "rank_shift": Measure(
        "rank in base",
        "where the base ranks the model's likeliest token, mean over held-out positions; 1 is first",
        decimals=1,
    ),
    "override": Measure("overrides", "share of completed tokens that are not the base's likeliest"),
    "override_deep": Measure("deep overrides", "share of those that the base ranks below 10"),
}

DIVERSITY = ("ttr", "mattr", *(f"distinct_{n}" for n in (1, 2, 3, 4)), "self_bleu")  # never shown without the overlap

DETAILS = frozenset(  # on the page, not on a terminal
    {"rep_2", "rep_3", "mattr", "distinct_1", "distinct_2", "distinct_3", "distinct_4"}
    | {"perplexity", "top3_probability", "top5_probability", "rank_shift", "override_deep"}
    | {"run_longest", "run_mean", "codebook_use", "codebook_perplexity"}
)


def brief(records: Records) -> list[str]:
    """The columns that a terminal shows: all but the details."""
    return [name for name in columns_of(records) if name not in DETAILS]


def printable(text: str) -> str:
    """One line of text: white space made plain, control characters and direction controls dropped."""
    return "".join(character for character in " ".join(text.split()) if is_printable(character))


def head(name: str) -> str:
    return MEASURES[name].head if name in MEASURES else printable(name.replace("_", " "))


def columns_of(records: Records, columns: Sequence[str] | None = None) -> list[str]:
    """The given columns, or all that a record has: known ones in the order of `MEASURES`, then the others.

    Raises:
        ValueError: a measure of diversity was taken and `overlap_mean` was not.
    """
    present = dict.fromkeys(name for record in records for name in record["values"])
    if columns is None:
        columns = [name for name in MEASURES if name in present] + [name for name in present if name not in MEASURES]
    chosen = list(dict.fromkeys(columns))
    return _overlap_beside_diversity(chosen, records) if set(DIVERSITY) & set(chosen) else chosen


def mean_text(record: Mapping[str, Any], name: str) -> str:
    """`0.233`, or `-` where there is no number."""
    mean = _part(record, name, "mean")
    return MISSING if mean is None else _number(mean, name)


def interval_text(record: Mapping[str, Any], name: str) -> str:
    """`[0.200, 0.274]`, or nothing where there is no interval."""
    low, high = _part(record, name, "low"), _part(record, name, "high")
    if low is None or high is None or _part(record, name, "mean") is None:
        return ""
    return f"[{_number(low, name)}, {_number(high, name)}]"


def cells(records: Records, columns: Sequence[str] | None = None) -> list[list[str]]:
    """The whole table as text: the row of heads, then one row a record; a record's name comes first."""
    names = columns_of(records, columns)
    rows = [[_cell(record, name) for name in names] for record in records]
    titles = [printable(str(record["name"])) for record in records]
    return [[NAME_HEAD, *map(head, names)], *([title, *row] for title, row in zip(titles, rows, strict=True))]


def _cell(record: Mapping[str, Any], name: str) -> str:
    return f"{mean_text(record, name)} {interval_text(record, name)}".rstrip()


def _overlap_beside_diversity(chosen: list[str], records: Records) -> list[str]:
    diverse = [name for name in chosen if name in DIVERSITY]
    measured = [name for name in diverse if _is_measured(records, name)]
    if measured and not _is_measured(records, "overlap_mean"):
        raise ValueError(f"records have {measured[0]} but no overlap_mean: diversity is never shown without overlap")
    overlaps = [name for name in chosen if name.startswith("overlap_")]
    if "overlap_mean" not in overlaps:
        overlaps.insert(0, "overlap_mean")
    others = [name for name in chosen if name not in overlaps]
    after = others.index(diverse[0]) + 1
    return others[:after] + overlaps + others[after:]


def _is_measured(records: Records, name: str) -> bool:
    return any(_part(record, name, "mean") is not None for record in records)


def _part(record: Mapping[str, Any], name: str, part: str) -> float | None:
    value = (record["values"].get(name) or {}).get(part)
    return None if value is None or math.isnan(value) else value


def _number(value: float, name: str) -> str:
    measure = MEASURES.get(name, Measure(name, ""))
    if math.isinf(value) or abs(value) >= 1e12:
        return f"{value:.3g}"
    is_count = measure.is_count and float(value).is_integer()
    if is_count or isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:z.{measure.decimals}f}"


def is_printable(character: str) -> bool:
    """Neither a control character nor one that reorders what stands around it."""
    return unicodedata.category(character) not in ("Cc", "Cs") and character not in DROPPED
