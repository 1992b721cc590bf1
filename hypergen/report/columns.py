"""Choose the columns of a table of records, and say what each means: Markdown, terminal and page show the same.

The core's metrics get their heads and meanings here, a modality's own in its adapter; here is the rule that diversity
is never shown without overlap, because a model that quotes its training set is diverse, too.
Does not know how a table is drawn, or how a number was measured.

A record is one row: {"name": "base greedy", "values": {"ttr": {"mean": 0.2, "low": 0.1, "high": 0.3}, ...}}. `low` and
`high`, a 95 % bootstrap interval, may be missing; a value may be absent or nan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypergen.modality import Metric, Metrics
from hypergen.runtime.console import sanitize

Record = Mapping[str, Any]
Records = Sequence[Record]

# The core's metrics, in the order of the columns: an adapter's own stand between the two groups.
DIVERSITY_METRICS: Metrics = {
    "ttr": Metric(
        head="TTR",
        meaning="different tokens / tokens, over the last 96 tokens of a completion",
        is_diversity=True,
        is_summary=True,
        better="higher",
    ),
    "overlap_mean": Metric(
        head="overlap mean",
        meaning="longest run of tokens shared with the training set, mean over completions",
        is_summary=True,
        better="lower",
    ),
    "overlap_max": Metric(
        head="overlap max",
        meaning="the longest such run of any completion, in tokens",
        is_count=True,
        is_summary=True,
        better="lower",
    ),
    "overlap_over_10": Metric(
        head="overlap > 10", meaning="share of completions with such a run of more than 10 tokens", better="lower"
    ),
    "mattr": Metric(
        head="MATTR",
        meaning="different tokens / tokens, mean over all windows of 50 tokens",
        is_diversity=True,
        is_detail=True,
        better="higher",
    ),
    **{
        f"rep_{n}": Metric(
            head=f"rep-{n}",
            meaning=f"share of {n}-token runs that repeat within a completion",
            is_detail=n < 4,
            is_verdict=n == 4,
            better="lower",
            plain="looping",
        )
        for n in (2, 3, 4)
    },
    **{
        f"distinct_{n}": Metric(
            head=f"distinct-{n}",
            meaning=f"different {what} / {what}, over all completions together",
            is_diversity=True,
            is_detail=True,
            better="higher",
        )
        for n, what in enumerate(("tokens", "2-token runs", "3-token runs", "4-token runs"), 1)
    },
}
PREDICTION_METRICS: Metrics = {
    "train_loss": Metric(head="training loss", meaning="mean cross-entropy on the training sequences, nats per token"),
    "loss": Metric(head="held-out loss", meaning="mean cross-entropy on sequences never trained on, nats per token"),
    "perplexity": Metric(head="perplexity", meaning="exp(held-out loss)", decimals=1, is_detail=True),
    "entropy": Metric(head="entropy", meaning="of the predicted next-token distributions, nats; low is sure"),
    "top1_probability": Metric(head="top-1", meaning="mean probability of the most likely token"),
    "top3_probability": Metric(
        head="top-3", meaning="mean probability of the 3 most likely tokens together", is_detail=True
    ),
    "top5_probability": Metric(
        head="top-5", meaning="mean probability of the 5 most likely tokens together", is_detail=True
    ),
    "agreement": Metric(
        head="agreement", meaning="share of held-out positions where model and base find the same token likeliest"
    ),
    "rank_shift": Metric(
        head="rank in base",
        meaning="where the base ranks the model's likeliest token, mean over held-out positions; 1 is first",
        decimals=1,
        is_detail=True,
    ),
    "override": Metric(head="overrides", meaning="share of completed tokens that are not the base's likeliest"),
    "override_deep": Metric(
        head="deep overrides", meaning="share of those that the base ranks below 10", is_detail=True
    ),
}


@dataclass(frozen=True)
class Columns:
    """Hold every metric that a table may show: the core's, and those of the adapters it is about."""

    metrics: Metrics
    """By name in a record, in the order of the columns."""
    verdict_names: Sequence[str]
    """Metrics that a verdict may be about, the first choice first."""

    @classmethod
    def of(cls, *adapter_metrics: Metrics) -> Columns:
        """Merge the metrics of adapters, in the order given, with the core's."""
        own = {name: metric for metrics in adapter_metrics for name, metric in metrics.items()}
        first_choice_first = {**own, **DIVERSITY_METRICS, **PREDICTION_METRICS}
        return cls(
            metrics={**DIVERSITY_METRICS, **own, **PREDICTION_METRICS},
            verdict_names=[name for name, metric in first_choice_first.items() if metric.is_verdict],
        )

    def metric(self, name: str) -> Metric:
        """Look a metric up; one that nobody declared is shown under its name, in plain numbers."""
        return self.metrics.get(name) or Metric(head=sanitize(name.replace("_", " ")), meaning="")

    def head(self, name: str) -> str:
        """Look up the title of a column."""
        return self.metric(name).head

    def names(self, records: Records, columns: Sequence[str] | None = None) -> list[str]:
        """Choose the given columns, or all that a record has: declared ones in their order, then the others.

        Raises:
            ValueError: a metric of diversity was taken and `overlap_mean` was not.
        """
        present = dict.fromkeys(name for record in records for name in record["values"])
        if columns is None:
            declared = [name for name in self.metrics if name in present]
            columns = declared + [name for name in present if name not in self.metrics]
        chosen = list(dict.fromkeys(columns))
        diverse = [name for name in chosen if self.metric(name).is_diversity]
        return _overlap_beside_diversity(chosen, diverse, records) if diverse else chosen

    def brief(self, records: Records, first: Sequence[str] = ()) -> list[str]:
        """Choose the columns that fit a terminal: all but the details, after those that are to come first."""
        others = [name for name in self.names(records) if not self.metric(name).is_detail and name not in first]
        return self.names(records, [*first, *others]) if first else others

    def summary(self, records: Records) -> list[str]:
        """Choose the few columns that `fit` ends with: what a verdict is about, then diversity, overlap and sense."""
        judged = self.judged(records)
        names = [] if judged is None else [judged]
        names += [name for name in self.names(records) if self.metric(name).is_summary]
        return self.names(records, names)

    def judged(self, records: Records) -> str | None:
        """Choose the metric that a verdict is about: the first that every record has, an adapter's before the core's.

        None where there is none.
        """
        if not records:
            return None
        measured = (name for name in self.verdict_names if all(name in record["values"] for record in records))
        return next(measured, None)

    def meanings(self, records: Records, names: Sequence[str] | None = None) -> list[tuple[str, str]]:
        """List head and meaning of the declared metrics that the records have, or of those named."""
        names = self.names(records, names)
        return [(metric.head, metric.meaning) for name in names if (metric := self.metrics.get(name))]

    def direction(self, name: str) -> str:
        """Say which way a metric is better; empty where neither is."""
        better = self.metric(name).better
        return f"{better} is better" if better else ""


def title_of(record: Record) -> str:
    """Look up under which title a row is shown: its own, else its name."""
    return str(record.get("title", record["name"]))


def is_measured(records: Records, name: str) -> bool:
    """Tell whether any record has a mean of this metric."""
    return any(part_of(record, name, "mean") is not None for record in records)


def part_of(record: Record, name: str, part: str) -> float | None:
    """Look up one number (`mean`, `low`, `high`) of a metric; None where it is absent or nan."""
    value = (record["values"].get(name) or {}).get(part)
    return None if value is None or math.isnan(value) else value


def _overlap_beside_diversity(chosen: list[str], diverse: list[str], records: Records) -> list[str]:
    measured = [name for name in diverse if is_measured(records, name)]
    if measured and not is_measured(records, "overlap_mean"):
        raise ValueError(f"records have {measured[0]} but no overlap_mean: diversity is never shown without overlap")
    overlaps = [name for name in chosen if name.startswith("overlap_")]
    if "overlap_mean" not in overlaps:
        overlaps.insert(0, "overlap_mean")
    others = [name for name in chosen if name not in overlaps]
    after = others.index(diverse[0]) + 1
    return others[:after] + overlaps + others[after:]
