"""The line-up: a run beside everything that one would try on its base instead.

Each row is a model and a way of decoding. The controls that need both models, entropy-matched temperature and static
bias, are computed when first asked for. Rows that need a training of their own (early-stopped, last layers, real data)
are those of `benchmarks/cross_domain.py`.
Does not know: what a token means, how completions are measured (`comparison`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from hypergen.calibration import Adjusted, log_probability_change, matching_temperature
from hypergen.comparison import Comparison
from hypergen.config import DecodingConfig
from hypergen.measures import prediction_values

GREEDY = DecodingConfig(stop_at_end=False)
CITATION_LENGTH = 5  # arXiv 2412.04318
REPETITION_PENALTY = 1.2  # arXiv 1909.05858


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table."""

    name: str
    model: str
    """base, matched, biased or hyperfitted (`Models`), or another that a caller has."""
    decoding: DecodingConfig = GREEDY
    describes: bool = False
    """Whether the row also says how the model predicts the held-out examples."""


def rows(seed: int) -> list[Row]:
    """What a base and a run allow without further training; the base comes first."""

    def drawn(strategy: Any) -> DecodingConfig:
        return DecodingConfig(strategy=strategy, stop_at_end=False, seed=seed)

    penalized = DecodingConfig(repetition_penalty=REPETITION_PENALTY, stop_at_end=False)
    blocked = DecodingConfig(block_citations=CITATION_LENGTH, stop_at_end=False)
    return [
        Row(name="base greedy", model="base", describes=True),
        Row(name="base top-p", model="base", decoding=drawn("top-p")),
        Row(name="base min-p", model="base", decoding=drawn("min-p")),
        Row(name="base repetition penalty", model="base", decoding=penalized),
        Row(name="base fsd", model="base", decoding=drawn("fsd")),
        Row(name="base beam", model="base", decoding=drawn("beam")),
        Row(name="base entropy-matched", model="matched", decoding=drawn("temperature"), describes=True),
        Row(name="base static bias", model="biased", describes=True),
        Row(name="hyperfitted greedy", model="hyperfitted", describes=True),
        Row(name="hyperfitted greedy, no citation", model="hyperfitted", decoding=blocked),
        Row(name="hyperfitted top-p", model="hyperfitted", decoding=drawn("top-p")),
    ]


class Models:
    """The models of a line-up by name."""

    def __init__(self, base: Any, hyperfitted: Any, held_out: Tensor):
        self.base, self.hyperfitted, self.held_out = base, hyperfitted, held_out

    @cached_property
    def matched(self) -> Adjusted:
        """The base at the temperature at which it is as sure as the hyperfitted model on the held-out sequences."""
        entropy = prediction_values(self.hyperfitted, self.held_out)["entropy"].mean().item()
        return Adjusted(self.base, temperature=matching_temperature(self.base, self.held_out, entropy))

    @cached_property
    def biased(self) -> Adjusted:
        """The base with the mean change of its log-probabilities on the held-out sequences added: estimated where it is
        then measured, which is the most that one vector can do."""
        return Adjusted(self.base, bias=log_probability_change(self.hyperfitted, self.base, self.held_out))

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


def add(compare: Comparison, row: Row, models: Any) -> dict[str, Tensor]:
    """Decode and measure one row; `models` is a `Models`, or anything that has `base` and gives a model by name."""
    compare.base = models.base
    if row.model == "matched":
        compare.remarks[row.name] = f"temperature {models['matched'].temperature:.4f}"
    return compare.add(row.name, row.decoding, model=models[row.model], describe_model=row.describes)
